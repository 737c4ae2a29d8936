"""Limits requests per client with SlowAPI, on every route of a router with `RateLimitedRoute`.

The route counts a request before its body is read, so bad requests count as good ones do, and a
flood of them costs no parsing. SlowAPI's own ways do not do that: its decorators run after the
body's validation, and its middlewares wrap streams or repeat their head.
"""

import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from limits.storage import RedisStorage
from prometheus_client import Gauge
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address

from src.config import Settings
from src.errors import LimitStorageDownError, SettingsError
from src.ops.limit_storage import MEMORY, SharedStorage, redis_options
from src.ops.request_body import JSONRequest


class RateLimit:
    """Counts requests by the peer's address, over a window that moves.

    All routes share one count for each client.

    Args:
        settings: how many requests, in how long, counted where.
        storage_up: set to 0 while the storage of the counts does not answer.

    Raises:
        SettingsError: RATE_LIMIT_STORAGE is no address.
    """

    def __init__(self, settings: Settings, storage_up: Gauge) -> None:
        self._limiter = _create_limiter(settings.rate_limit_storage)
        self._is_open = settings.rate_limit_storage_failure == "open"
        storage = self._limiter._storage
        self.storage: SharedStorage | None = None
        if isinstance(storage, RedisStorage):
            self.storage = SharedStorage(storage, storage_up)
        storage_up.set(1)

        @self._limiter.shared_limit(
            f"{settings.rate_limit_requests} per {settings.rate_limit_period} seconds",
            scope="generation",
        )
        def hit(request: Request) -> None:
            """All that there is to do is done by the decorator."""

        self._hit = hit

    async def count(self, request: Request) -> None:
        """Counts a request.

        Raises:
            RateLimitExceeded: over the limit; `request.state.retry_after` says how many seconds.
            LimitStorageDownError: it cannot be counted, and such a request is to be refused.
        """
        if self.storage is None:
            self._count(request)
            return
        try:
            await self.storage.ask(lambda: self._count(request))
        except LimitStorageDownError:
            if not self._is_open:
                raise

    def _count(self, request: Request) -> None:
        try:
            self._hit(request)
        except RateLimitExceeded:
            limit, arguments = request.state.view_rate_limit
            reset_time, _ = self._limiter.limiter.get_window_stats(limit, *arguments)
            request.state.retry_after = max(1, math.ceil(reset_time - time.time()))
            raise


def _create_limiter(storage: str) -> Limiter:
    is_memory = storage == MEMORY
    try:
        limiter = Limiter(
            get_remote_address,
            strategy="moving-window",
            storage_uri="memory://" if is_memory else storage,
            storage_options={} if is_memory else redis_options(),
        )
    except ValueError as error:
        raise SettingsError(f"RATE_LIMIT_STORAGE is no address of a Redis: {error}.") from None
    limiter.enabled = True  # whatever RATELIMIT_ENABLED, which is no setting of ours, says
    return limiter


class RateLimitedRoute(APIRoute):
    """A route that counts a request with the app's `state.rate_limit` before anything else.

    Its body is then read as a `JSONRequest`'s.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            await request.app.state.rate_limit.count(request)
            return await handle(JSONRequest(request.scope, request.receive))

        return handle_limited
