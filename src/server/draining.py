"""A service that ends: who comes now is told so, and whoever is being answered is waited for.

The server goes on listening meanwhile. Were its port closed, probes and clients could not tell a
service that ends from one that is not there.
"""

from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from src.middleware.error_body import error_body
from src.middleware.route_policy import policy_of

MESSAGE = "The server is shutting down."
RETRY_AFTER = "1"
"""Seconds; another replica, or the one that comes in this one's place, may be there by then."""


@dataclass(slots=True)
class Draining:
    """Whether the service ends, and how many requests it is still answering."""

    is_draining: bool = False
    num_in_flight: int = 0


class DrainMiddleware:
    """Refuses requests that need the model once the service ends, and counts those before.

    Args:
        app: what answers them.
        draining: whether it ends.
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
