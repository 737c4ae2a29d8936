"""Limits requests per client with SlowAPI, as a dependency of the routes that cost something.

A dependency runs before the body is validated, so a flood of bad requests counts too, and it works
for every route of an included router, where SlowAPI's default limits do not.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import Request
from slowapi import Limiter
from slowapi.util import get_remote_address

from src.config import Settings

RateLimit = Callable[[Request], Awaitable[None]]


def create_limiter() -> Limiter:
    """Counts by the peer's address, in this process's memory, over a window that moves."""
    return Limiter(get_remote_address, strategy="moving-window")


def create_rate_limit(limiter: Limiter, settings: Settings) -> RateLimit:
    """Returns the dependency that counts a request.

    All routes that depend on it share one count for each client. Over the limit it raises SlowAPI's
    `RateLimitExceeded`.
    """

    @limiter.shared_limit(
        f"{settings.rate_limit_requests} per {settings.rate_limit_period} seconds",
        scope="generation",
    )
    async def rate_limit(request: Request) -> None:
        """All that there is to do is done by the decorator."""

    return cast(RateLimit, rate_limit)


def seconds_until_allowed(limiter: Limiter, request: Request) -> int:
    """Whole seconds, at least one, until the client of a refused request may come again."""
    limit, arguments = request.state.view_rate_limit
    reset_time, _ = limiter.limiter.get_window_stats(limit, *arguments)
    return max(1, math.ceil(reset_time - time.time()))
