"""Moving-window limit on requests, with SlowAPI in memory and with `limits` in Redis.

SlowAPI's decorators count synchronously, and after a body was validated. Here a request counts
before its body is read, and a slow Redis must not block the event loop. SlowAPI is therefore used
by its public surface alone: the `Limiter`, its configuration, and its counter in memory. In Redis
`limits.aio` counts, the asynchronous half of the library that SlowAPI is built on.

A moving window keeps the time of each request, so a limit holds in every span of its length.
"""

from typing import Protocol

from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from slowapi import Limiter
from starlette.requests import Request

from limits import RateLimitItem, WindowStats
from limits.storage import Storage
from src.limits.client_address import rate_limit_key
from src.limits.storage import Command, SharedStorage, WaitBudget


class RequestWindow(Protocol):
    """Times of requests, by their rate-limit key and the name of their limit."""

    async def hit(self, item: RateLimitItem, key: str, name: str, budget: WaitBudget) -> bool:
        """Counts a request; returns False, and counts nothing, above the limit."""

    async def stats(
        self, item: RateLimitItem, key: str, name: str, budget: WaitBudget
    ) -> WindowStats:
        """Returns the number of requests left, and the time at which the oldest leaves."""


class MemoryRequestWindow:
    """Times of requests in this process's memory, by SlowAPI."""

    def __init__(self) -> None:
        self.limiter = Limiter(
            _address_key, strategy="moving-window", storage_uri="memory://", storage_options={}
        )

    async def hit(self, item: RateLimitItem, key: str, name: str, _: WaitBudget) -> bool:
        """Counts a request; returns False, and counts nothing, above the limit."""
        return self.limiter.limiter.hit(item, key, name)

    async def stats(self, item: RateLimitItem, key: str, name: str, _: WaitBudget) -> WindowStats:
        """Returns the number of requests left, and the time at which the oldest leaves."""
        return self.limiter.limiter.get_window_stats(item, key, name)

    @property
    def storage(self) -> Storage:
        """Numbers that expire, in the same memory."""
        return self.limiter.limiter.storage


class RedisRequestWindow:
    """Times of requests in Redis, by `limits.aio`."""

    def __init__(self, storage: SharedStorage, url: str) -> None:
        self._storage = storage
        self._limiter = MovingWindowRateLimiter(
            RedisStorage(
                f"async+{url}",
                implementation="redispy",
                connection_pool=storage.pool,  # type: ignore[arg-type] # typed as options of URLs
            )
        )

    async def hit(self, item: RateLimitItem, key: str, name: str, budget: WaitBudget) -> bool:
        """Counts a request; returns False, and counts nothing, above the limit."""
        command = Command(name, lambda: self._limiter.hit(item, key, name))
        return await self._storage.run(command, budget)

    async def stats(
        self, item: RateLimitItem, key: str, name: str, budget: WaitBudget
    ) -> WindowStats:
        """Returns the number of requests left, and the time at which the oldest leaves."""
        command = Command(name, lambda: self._limiter.get_window_stats(item, key, name))
        return await self._storage.run(command, budget)


def _address_key(request: Request) -> str:
    return rate_limit_key(request.scope)
