"""Outermost handling of a request: its id, one access log line, its metrics, unhandled errors.

A plain ASGI class, so that streams pass through unchanged.
"""

import asyncio
import logging
import re
import time
import uuid

import structlog
from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.middleware.error_body import CALLER, REQUEST_ID, error_body
from src.middleware.ignored_fields import IGNORED_FIELDS, IgnoredFields, listed
from src.middleware.route_policy import policy_of
from src.observability.http_metrics import UNMATCHED, HttpMetrics

logger = logging.getLogger("src.access")

REQUEST_ID_HEADER = "X-Request-ID"
VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
PROBE_ANSWERS = (200, 503)
"""Usual statuses of probes; they are logged at debug level."""

CLIENT_CLOSED_REQUEST = 499  # nginx's status; only log and metrics show it
FINAL_STATUS = "final_status"


def set_final_status(scope: Scope, status_code: int) -> None:
    """Sets the status for log, metrics and traces of an answer that failed after it began."""
    scope[FINAL_STATUS] = status_code
    if status_code >= 500:
        span = trace.get_current_span()
        span.set_status(trace.StatusCode.ERROR)
        span.set_attribute("error.type", str(status_code))


class RequestLogMiddleware:
    """Wraps each HTTP request.

    Args:
        app: the app inside.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope[REQUEST_ID] = request_id = request_id_of(scope)
        names = [REQUEST_ID_HEADER]
        family_header = policy_of(scope).family.request_id_header
        if family_header is not None:
            names.append(family_header)
        status_code = 0
        is_whole = False

        async def send_with_id(message: Message) -> None:
            nonlocal status_code, is_whole
            if message["type"] == "http.response.start":
                status_code = message["status"]
                MutableHeaders(scope=message).update(dict.fromkeys(names, request_id))
            await send(message)
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the grace of a shutdown is over
                if status_code:  # an answer that has begun can only be aborted
                    raise
                answer = _answer(scope, 503, "The server is shutting down.")
                await answer(scope, receive, send_with_id)
            except Exception:
                logger.exception("unhandled error")
                set_final_status(scope, 500)
                if status_code:
                    raise
                answer = _answer(scope, 500, "Internal server error.")
                await answer(scope, receive, send_with_id)
            finally:
                final = scope.get(FINAL_STATUS) or (
                    status_code if is_whole else CLIENT_CLOSED_REQUEST
                )
                self._record(scope, final, time.perf_counter() - started)

    def _record(self, scope: Scope, status_code: int, seconds: float) -> None:
        endpoint, policy = _endpoint(scope), policy_of(scope)
        is_refused = endpoint == UNMATCHED  # by a middleware, before any route was reached
        is_probe = policy.is_probe and not is_refused and status_code in PROBE_ANSWERS
        level = logging.DEBUG if is_probe else logging.INFO
        logger.log(
            level,
            "request",
            extra={
                "method": scope["method"],
                "endpoint": endpoint,
                "status": status_code,
                "duration_ms": round(seconds * 1000, 1),
                "client": scope["client"][0] if scope.get("client") else None,
                "caller": scope[CALLER].id if CALLER in scope else None,
            }
            | _hint(scope, status_code)
            | _ignored(scope),
        )
        if policy.is_measured or is_refused:
            self._metrics.observe_request(endpoint, status_code, seconds)


def _hint(scope: Scope, status_code: int) -> dict[str, str]:
    """Returns a log field that names the setting for a refused preflight of a browser."""
    if scope["method"] != "OPTIONS" or status_code not in (401, 405):
        return {}
    return {"hint": "a preflight of a browser: add the page's origin to CORS_ORIGINS"}


def _ignored(scope: Scope) -> dict[str, str]:
    """Returns a log field with the unknown fields of a request, which were left out."""
    ignored: IgnoredFields | None = scope.get(IGNORED_FIELDS)
    return {"ignored_fields": listed(ignored.unknown)} if ignored and ignored.unknown else {}


def _answer(scope: Scope, status_code: int, message: str) -> JSONResponse:
    body = error_body(scope, status_code, message)
    return JSONResponse(body, status_code, headers={"Connection": "close"})


def request_id_of(scope: Scope) -> str:
    """Returns the client's request id if it is valid, else a new one."""
    request_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return request_id if VALID_REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex


def _endpoint(scope: Scope) -> str:
    """Returns the route's template; each raw path would create a time series."""
    if "route" in scope:
        return str(scope["route"].path)
    return "__static__" if "endpoint" in scope else UNMATCHED
