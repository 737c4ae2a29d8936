"""Limits requests per client with SlowAPI, on every route of a router with `RateLimitedRoute`.

The route counts a request before its body is read, so bad requests count as good ones do, and a
flood of them costs no parsing. SlowAPI's own ways do not do that: its decorators run after the
body's validation, and its middlewares wrap streams or repeat their head.
"""

import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute
from slowapi import Limiter
from slowapi.util import get_remote_address

from src.config import Settings

RateLimit = Callable[[Request], Awaitable[None]]


def create_limiter() -> Limiter:
    """Counts by the peer's address, in this process's memory, over a window that moves."""
    limiter = Limiter(get_remote_address, strategy="moving-window", storage_uri="memory://")
    limiter.enabled = True  # whatever RATELIMIT_ENABLED, which is no setting of ours, says
    return limiter


def create_rate_limit(limiter: Limiter, settings: Settings) -> RateLimit:
    """Returns the function that counts a request.

    All routes share one count for each client. Over the limit it raises SlowAPI's
    `RateLimitExceeded`.
    """

    @limiter.shared_limit(
        f"{settings.rate_limit_requests} per {settings.rate_limit_period} seconds",
        scope="generation",
    )
    async def rate_limit(request: Request) -> None:
        """All that there is to do is done by the decorator."""

    return cast(RateLimit, rate_limit)


class RateLimitedRoute(APIRoute):
    """A route that counts a request with the app's `state.rate_limit` before anything else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            await request.app.state.rate_limit(request)
            return await handle(request)

        return handle_limited


def seconds_until_allowed(limiter: Limiter, request: Request) -> int:
    """Whole seconds, at least one, until the client of a refused request may come again."""
    limit, arguments = request.state.view_rate_limit
    reset_time, _ = limiter.limiter.get_window_stats(limit, *arguments)
    return max(1, math.ceil(reset_time - time.time()))
