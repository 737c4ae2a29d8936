"""Draining: refuses new requests during a graceful shutdown and counts the running ones.

`graceful.py` waits for those. The port stays open meanwhile: a closed one would look to probes and
clients like a crashed service.
"""

from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from src.middleware.error_body import error_body
from src.middleware.route_policy import policy_of

MESSAGE = "The server is shutting down."
RETRY_AFTER = "1"
"""Seconds; another replica, or a successor of this one, may accept requests by then."""


@dataclass(slots=True)
class Draining:
    """State of a graceful shutdown.

    Args:
        is_draining: new requests are refused.
        num_in_flight: requests that are being answered.
    """

    is_draining: bool = False
    num_in_flight: int = 0


class DrainMiddleware:
    """Refuses requests to drained routes during a graceful shutdown, and counts the running ones.

    Args:
        app: the app inside.
        draining: state of the shutdown.
    """

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not policy_of(scope).is_drained:
            await self._app(scope, receive, send)
            return
        if self._draining.is_draining:
            headers = {"Retry-After": RETRY_AFTER, "Connection": "close"}
            answer = JSONResponse(error_body(scope, 503, MESSAGE), 503, headers)
            await answer(scope, receive, send)
            return
        self._draining.num_in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._draining.num_in_flight -= 1
