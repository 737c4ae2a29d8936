"""Assembles the app and starts the server: `python -m src.main`, or `uvicorn src.main:app`.

The server listens at once; the model loads in the background. When it cannot be loaded, the reason
is logged and the process ends with a status that is not 0.
"""

import logging
import sys
from collections.abc import Callable

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from src import __version__
from src.api.errors import add_exception_handlers
from src.api.openapi import document_model_name, document_security
from src.api.routes import add_routes, route_policies
from src.auth.authenticators import Watched, read_keys
from src.auth.middleware import Authenticator, AuthMiddleware
from src.celery_queue.tokens import LineTokenMiddleware, LineTokens
from src.config import Settings, find_typos, load_settings
from src.errors import SettingsError
from src.limits.usage import UsageMiddleware
from src.middleware.ignored_fields import IgnoredFieldsMiddleware
from src.middleware.request_body import RequestBodyMiddleware
from src.middleware.request_line import RequestLineMiddleware
from src.middleware.request_log import RequestLogMiddleware
from src.middleware.route_policy import RoutePolicyMiddleware
from src.middleware.security_headers import SecurityHeadersMiddleware, cors_options
from src.observability.logs import configure_logging
from src.observability.tracing import telemetry_config
from src.server.draining import DrainMiddleware
from src.server.lifespan import lifespan
from src.server.run import serve
from src.server.service import Service, create_service

logger = logging.getLogger(__name__)

DESCRIPTION = "Continues texts with a language model."


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the app; nothing is loaded before it starts.

    Args:
        settings: None reads the environment and `.env`.

    Raises:
        SettingsError: a setting has a bad value.
    """
    typos = find_typos() if settings is None else ()
    settings = settings or load_settings()
    configure_logging(settings)
    for typo in typos:
        logger.warning(typo)
    service = create_service(settings, route_policies())
    probe_paths = {policy.path for policy in service.policies.policies if policy.is_probe}
    app: FastAPI = FastAPIOffline(
        title="LLM inference",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry=telemetry_config(service.tracing, probe_paths),
    )
    app.openapi_version = "3.2.0"  # the first that has `itemSchema`, which describes streams
    app.state.service = service
    add_routes(app)
    document_model_name(app, service.engine)
    add_exception_handlers(app)
    _add_middleware(app, service)
    return app


def _add_middleware(app: FastAPI, service: Service) -> None:
    """Adds the innermost first."""
    settings = service.settings
    app.add_middleware(RequestBodyMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(IgnoredFieldsMiddleware, refuses_unknown=settings.unknown_fields == "refuse")
    app.add_middleware(UsageMiddleware, usage=service.usage)
    app.add_middleware(DrainMiddleware, draining=service.draining)
    _add_auth(app, service)
    app.add_middleware(RequestLogMiddleware, metrics=service.http_metrics)
    app.add_middleware(RoutePolicyMiddleware, policies=service.policies)
    if settings.cors_origin_list:
        app.add_middleware(CORSMiddleware, **cors_options(settings))
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(RequestLineMiddleware)


def _add_auth(app: FastAPI, service: Service) -> None:
    finder = _find_authenticator(read_keys(service.settings), service.watched_keys)
    app.add_middleware(AuthMiddleware, finder=finder, limits=service.rate_limit)
    secret = service.settings.batch_token_secret
    if secret is not None:
        app.add_middleware(LineTokenMiddleware, tokens=LineTokens(secret))
    if finder is not None:
        document_security(app, service.policies)


def _find_authenticator(
    keys: Authenticator | None, watched: Watched | None
) -> Callable[[], Authenticator] | None:
    """Returns a getter of the current keys; None without authentication."""
    if keys is not None:
        return lambda: keys
    if watched is not None:
        return lambda: watched.value
    return None


def main() -> None:
    """Serves until SIGTERM or SIGINT, then exits with 0; exits with 3 if it cannot start."""
    serve(app)


def _create_app_or_exit() -> FastAPI:
    """Prints a bad setting as one readable message, without a traceback, and exits."""
    try:
        return create_app()
    except SettingsError as error:
        sys.exit(str(error))


app = _create_app_or_exit()

if __name__ == "__main__":
    main()
