"""Puts the service together and starts it: `python -m src.main`, or `uvicorn src.main:app`.

The server listens at once; the model loads in the background. When it cannot be loaded, the reason
is logged and the process ends with a status that is not 0.
"""

import asyncio
import concurrent.futures
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from uvicorn.config import STARTUP_FAILURE

from src import __version__
from src.api.anthropic import routes as messages
from src.api.errors import add_exception_handlers
from src.api.native import generate, health
from src.api.openai import models, tokenize
from src.api.openai.chat import routes as chat
from src.api.openai.completions import routes as completions
from src.api.openai.embeddings import routes as embeddings
from src.api.openai.responses import routes as responses
from src.api.openapi import document_security
from src.auth.authenticators import Watched, read_keys, watch_keys
from src.auth.middleware import Authenticator, AuthMiddleware
from src.config import Settings, find_typos, load_settings
from src.core.request_validation import RequestLimits
from src.engine.structured_output.compile_pool import GrammarLimits
from src.errors import SettingsError, StartupError
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimit
from src.limits.usage import Usage, UsageMiddleware
from src.middleware.request_body import RequestBodyMiddleware
from src.middleware.request_log import NOT_INFERENCE, RequestLogMiddleware
from src.middleware.security_headers import SecurityHeadersMiddleware, cors_options
from src.observability.engine_metrics import EngineMetrics
from src.observability.event_loop_watchdog import EventLoopWatchdog
from src.observability.http_metrics import HttpMetrics
from src.observability.logs import configure_logging
from src.observability.tracing import create_tracing, telemetry_config
from src.server.draining import Draining, DrainMiddleware
from src.server.graceful import LAST_WORDS_SECONDS, LOOK_SECONDS
from src.server.process_end import end_process
from src.server.run import serve
from src.server.startup_hints import log_hints

logger = logging.getLogger(__name__)

ENGINE_FAILURE = 1
ROUTERS = [
    routes.router
    for routes in (
        generate,
        completions,
        chat,
        responses,
        embeddings,
        messages,
        models,
        tokenize,
        health,
    )
]
DESCRIPTION = "Continues texts with a language model."
# Names of addresses, to print; nothing is bound to them here.
LOCAL = dict.fromkeys(("0.0.0.0", "127.0.0.1", "::", "::1"), "localhost")  # noqa: S104 # nosec


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the app; nothing is loaded before it starts.

    Args:
        settings: None reads the environment and `.env`.

    Raises:
        SettingsError: a setting has a bad value.
    """
    is_read_here = settings is None
    settings = settings or load_settings()
    configure_logging(settings)
    for message in find_typos() if is_read_here else ():
        logger.warning(message)
    tracing = create_tracing(settings.model_name)
    metrics = HttpMetrics()
    metrics.max_step_seconds.set(settings.hang_timeout_seconds)
    app: FastAPI = FastAPIOffline(
        title="LLM inference",
        description=DESCRIPTION,
        version=__version__,
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry=telemetry_config(tracing),
    )
    app.openapi_version = "3.2.0"  # the first that has `itemSchema`, which describes streams
    app.state.rate_limit = RateLimit(settings, metrics.limit_storage_up)
    app.state.usage = usage = Usage(settings, app.state.rate_limit, metrics)
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.draining = Draining()
    app.state.engine_metrics = EngineMetrics(metrics.registry, settings.model_name)
    app.state.engine = InferenceEngine(
        settings.engine_config(),
        settings.timeout_seconds,
        app.state.engine_metrics,
        tracing,
        GrammarLimits(
            settings.max_grammar_bytes,
            settings.grammar_timeout_seconds,
            settings.grammar_cache_size,
            int(settings.grammar_memory_gb * 2**30),
        ),
        usage,
        RequestLimits(
            settings.max_prompt_bytes,
            settings.max_stop_texts,
            settings.max_stop_length,
            settings.max_request_sequences,
            settings.max_request_logprobs,
        ),
    )
    app.state.tracing = tracing
    app.state.url = None  # known when we start the server ourselves
    app.state.is_loaded = False
    app.state.wait_for_model = settings.listen_when_loaded  # a worker may be asked to do so too
    for router in ROUTERS:
        app.include_router(router)
    paths = {route.path for router in ROUTERS for route in router.routes}
    metrics.expect_requests(sorted(paths - set(NOT_INFERENCE)))
    add_exception_handlers(app)
    app.add_middleware(RequestBodyMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(UsageMiddleware, usage=usage)
    app.add_middleware(DrainMiddleware, draining=app.state.draining)
    _add_auth(app, settings)
    app.add_middleware(RequestLogMiddleware, metrics=metrics)
    if settings.cors_origin_list:
        app.add_middleware(CORSMiddleware, **cors_options(settings))
    app.add_middleware(SecurityHeadersMiddleware)
    return app


def _add_auth(app: FastAPI, settings: Settings) -> None:
    app.state.watched_keys = watched = watch_keys(settings)
    finder = _find_authenticator(read_keys(settings), watched)
    app.add_middleware(AuthMiddleware, finder=finder, limits=app.state.rate_limit)
    if finder is not None:
        document_security(app)


def _find_authenticator(
    keys: Authenticator | None, watched: Watched | None
) -> Callable[[], Authenticator] | None:
    """Returns a getter of the current keys; None without authentication."""
    if keys is not None:
        return lambda: keys
    if watched is not None:
        return lambda: watched.value
    return None


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.watch = asyncio.create_task(_watch_engine(app))
    tasks = [asyncio.create_task(_load_and_watch(app)), app.state.watch]
    if app.state.watched_keys is not None:
        tasks.append(asyncio.create_task(app.state.watched_keys.watch()))
    tasks.append(asyncio.create_task(app.state.rate_limit.watch()))
    if app.state.wait_for_model:
        await _wait_for_model(app)
    yield
    gc.unfreeze()
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(app.state.engine.shutdown)
    await app.state.rate_limit.close()
    await asyncio.to_thread(app.state.usage.shutdown)
    if app.state.tracing is not None:
        await asyncio.to_thread(app.state.tracing.shutdown)


async def _load_and_watch(app: FastAPI) -> None:
    """Loads the model, then measures the event loop: imports of large libraries hold it before."""
    await _load_model(app)
    await EventLoopWatchdog(app.state.metrics.loop_lag).watch()


async def _load_model(app: FastAPI) -> None:
    engine: InferenceEngine = app.state.engine
    metrics: HttpMetrics = app.state.metrics
    logger.info("loading the model", extra={"model": engine.model_name})
    try:
        check = partial(_check_default_length, app.state.settings)
        await _in_daemon_thread(lambda: engine.load_model(check))
        app.state.engine_metrics.model_name = engine.model_name  # it may be the fallback
        if app.state.tracing is not None:
            app.state.tracing.model_name = engine.model_name
        # A full collection looks at every object, the libraries' and the model's too, and takes
        # half a second. Frozen objects are left out; they live as long as the process anyway.
        gc.freeze()
        metrics.max_live.set(engine.max_live)
    except StartupError as error:
        logger.critical("cannot start: %s", error)
        end_process(STARTUP_FAILURE)
    except Exception:
        logger.critical("cannot start: loading the model failed", exc_info=True)
        end_process(STARTUP_FAILURE)
    app.state.is_loaded = True
    metrics.ready.set(1)  # as a scrape does, for those of another worker
    logger.info("ready to serve", extra={"model": engine.model_name})
    if app.state.url:
        log_hints(app.state.url, engine, app.state.settings)


async def _wait_for_model(app: FastAPI) -> None:
    """Returns when the model is loaded, or the process is to end before it is."""
    while not app.state.is_loaded and not app.state.draining.is_draining:  # noqa: ASYNC110 - a signal
        await asyncio.sleep(LOOK_SECONDS)


async def _watch_engine(app: FastAPI) -> None:
    """Ends the process when the engine is dead: only a restart helps, and others do that."""
    await app.state.engine.wait_until_dead(app.state.settings.hang_timeout_seconds)
    app.state.metrics.ready.set(0)
    logger.critical("the engine has ended, and so will the process")
    await asyncio.sleep(LAST_WORDS_SECONDS)
    end_process(ENGINE_FAILURE)


def _check_default_length(settings: Settings, max_model_len: int) -> None:
    """A default that fits no prompt would fail every request that leaves `max_length` out."""
    if settings.max_length >= max_model_len:
        raise SettingsError(
            f"MAX_LENGTH={settings.max_length} new tokens leave no room for a prompt in the model's"
            f" context of {max_model_len} tokens. Set it lower."
        )


async def _in_daemon_thread(function: Callable[[], None]) -> None:
    """Like `asyncio.to_thread`, but the end of the process does not wait for the function's."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            function()
            future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(error)

    threading.Thread(target=run, name="load-model", daemon=True).start()
    await asyncio.wrap_future(future)


def main() -> None:
    """Serves until SIGTERM or SIGINT, then exits with 0; exits with 3 if it cannot start."""
    settings: Settings = app.state.settings
    if settings.workers == 1 and not settings.reload:
        app.state.url = _url(settings)
    serve(app)


def _url(settings: Settings) -> str | None:
    """Where a user on this machine finds the service, if that is known before it listens."""
    if settings.port == 0:
        return None
    host = LOCAL.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _create_app_or_exit() -> FastAPI:
    """For the start from a shell, where a bad setting is one readable message and no traceback."""
    try:
        return create_app()
    except SettingsError as error:
        sys.exit(str(error))


app = _create_app_or_exit()

if __name__ == "__main__":
    main()
