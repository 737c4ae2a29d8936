"""Limits of each client: requests, requests at the same time, and tokens.

`RateLimitedRoute` counts the requests of all routes of a router before their bodies are read: bad
requests count as good ones do, and a flood of them costs no parsing.
"""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Gauge
from starlette.responses import JSONResponse
from starlette.types import Scope

from limits import RateLimitItemPerSecond
from src.config import Settings
from src.core.identity import ANONYMOUS, Caller
from src.errors import LimitStorageDownError, RateLimitedError
from src.limits.client_address import rate_limit_key
from src.limits.concurrency import Concurrency, Lease, MemoryConcurrency, RedisConcurrency
from src.limits.request_window import MemoryRequestWindow, RedisRequestWindow, RequestWindow
from src.limits.storage import MEMORY, SharedStorage, WaitBudget, wait_budget
from src.limits.token_quota import (
    MemoryTokenCounter,
    RedisTokenCounter,
    Reservation,
    TokenQuota,
)
from src.middleware.error_body import CALLER, INTERNAL_CALLER, error_body
from src.middleware.request_body import BYTES_PER_CONTAINER, JSONLimits, JSONRequest

T = TypeVar("T")

ALLOWANCES = "allowances"
"""Key of a request's scope: what is left of each limit, by the limit's name."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Rest of a limit.

    Args:
        limit: its name.
        quota: amount in each period.
        period: in seconds; None for requests at the same time.
        left: amount that is left.
        reset: whole seconds until more is left; None if unknown.
    """

    limit: str
    quota: int
    period: int | None
    left: int
    reset: int | None = None


class RateLimit:
    """Counts what clients use, in memory or in Redis.

    All routes share one count for each API key, or for each address without authentication.

    Args:
        settings: limits, their period, and RATE_LIMIT_STORAGE.
        storage_up: gauge, set to 0 while the storage does not answer.

    Raises:
        SettingsError: RATE_LIMIT_STORAGE is malformed.
    """

    def __init__(self, settings: Settings, storage_up: Gauge) -> None:
        self._serves_uncounted = settings.rate_limit_storage_failure == "open"
        self._period = settings.rate_limit_period
        self._max_requests = settings.request_limit
        self._max_address_requests = settings.rate_limit_address_requests
        self._storage: SharedStorage | None = None
        if settings.rate_limit_storage == MEMORY:
            self._use_memory(storage_up)
        else:
            self._use_redis(settings.rate_limit_storage, storage_up)

    def _use_memory(self, storage_up: Gauge) -> None:
        window = MemoryRequestWindow()
        self._requests: RequestWindow = window
        self._tokens = TokenQuota(MemoryTokenCounter(window.storage, self._period), self._period)
        self._concurrency: Concurrency = MemoryConcurrency()
        storage_up.set(1)

    def _use_redis(self, url: str, storage_up: Gauge) -> None:
        self._storage = storage = SharedStorage(url, storage_up)
        self._requests = RedisRequestWindow(storage, url)
        self._tokens = TokenQuota(RedisTokenCounter(storage, self._period), self._period)
        self._concurrency = RedisConcurrency(storage)

    async def watch(self) -> None:
        """Watches over Redis and renews leases there, until cancelled."""
        if self._storage is not None:
            await self._storage.watch(self._concurrency.renew)

    async def close(self) -> None:
        """Closes the connections to Redis."""
        if self._storage is not None:
            await self._storage.close()

    async def count(self, request: Request) -> None:
        """Counts a request of its caller; not a batch's line, as the batch was counted.

        Raises:
            RateLimitedError: over the limit.
            LimitStorageDownError: it cannot be counted, and RATE_LIMIT_STORAGE_FAILURE is closed.
        """
        caller = _caller(request)
        quota = caller.limits.requests or self._max_requests
        if quota is None or INTERNAL_CALLER in request.scope:
            return
        key = caller.id or rate_limit_key(request.scope)
        budget = wait_budget(request.scope)
        allowance = await self._unless_down(self._count(key, "requests", quota, budget))
        if allowance is not None and ALLOWANCES in request.scope:
            request.scope[ALLOWANCES]["requests"] = allowance

    async def count_address(self, scope: Scope) -> None:
        """Counts a request of its address, before authentication; raises as `count`."""
        hit = self._hit(
            rate_limit_key(scope), "address", self._max_address_requests, wait_budget(scope)
        )
        await self._unless_down(hit)

    async def reserve_tokens(
        self, key: str, num_tokens: int, quota: int, budget: WaitBudget
    ) -> Reservation | None:
        """Takes tokens; returns None if they go uncounted.

        Raises:
            RateLimitedError: fewer tokens are left.
            LimitStorageDownError: as of `count`.
        """
        return await self._unless_down(self._tokens.reserve(key, num_tokens, quota, budget))

    def give_back_tokens(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives unused tokens of a reservation back, soon; call it once for each, also with 0."""
        self._tokens.give_back(reservation, num_tokens)

    async def start(self, key: str, max_running: int, budget: WaitBudget) -> Lease:
        """Counts a request that runs from now on until `end`.

        Raises:
            RateLimitedError: the maximum number of requests runs already.
            LimitStorageDownError: as of `count`.
        """
        lease = Lease(key)
        await self._unless_down(self._concurrency.start(lease, max_running, budget))
        self._concurrency.hold(lease)
        return lease

    def end(self, lease: Lease) -> None:
        """Counts a request as answered."""
        self._concurrency.end(lease)

    async def _unless_down(self, answer: Awaitable[T]) -> T | None:
        """Returns an answer of the storage; None if it is down and requests go uncounted then."""
        try:
            return await answer
        except LimitStorageDownError:
            if not self._serves_uncounted:
                raise
        return None

    async def _count(self, key: str, name: str, quota: int, budget: WaitBudget) -> Allowance:
        item = await self._hit(key, name, quota, budget)
        reset_time, left = await self._requests.stats(item, key, name, budget)
        wait = max(1, math.ceil(reset_time - time.time()))
        return Allowance(name, quota, self._period, left, wait)

    async def _hit(
        self, key: str, name: str, quota: int, budget: WaitBudget
    ) -> RateLimitItemPerSecond:
        """Counts a request; returns its limit.

        Raises:
            RateLimitedError: over the limit.
        """
        item = RateLimitItemPerSecond(quota, self._period)
        if not await self._requests.hit(item, key, name, budget):
            reset_time, left = await self._requests.stats(item, key, name, budget)
            raise RateLimitedError(name, quota, self._period, left, reset_time - time.time())
        return item


def allowance_headers(allowances: Collection[Allowance]) -> dict[str, str]:
    """Returns the headers of draft-ietf-httpapi-ratelimit-headers-10: quotas and what is left."""
    left, policies = [], []
    for allowance in allowances:
        reset = "" if allowance.reset is None else f";t={allowance.reset}"
        window = "" if allowance.period is None else f";w={allowance.period}"
        left.append(f'"{allowance.limit}";r={allowance.left}{reset}')
        policies.append(f'"{allowance.limit}";q={allowance.quota}{window}')
    return {"RateLimit": ", ".join(left), "RateLimit-Policy": ", ".join(policies)}


def limit_headers(error: RateLimitedError) -> dict[str, str]:
    """Returns the headers of a 429: the limit, what is left of it, the time to wait."""
    refused = Allowance(error.limit, error.quota, error.period, error.left, error.retry_after)
    return {"Retry-After": str(error.retry_after)} | allowance_headers([refused])


def limit_response(scope: Scope, error: RateLimitedError | LimitStorageDownError) -> JSONResponse:
    """Creates the 429 or 503 of a middleware, in the body format of the path's API."""
    if isinstance(error, LimitStorageDownError):
        return JSONResponse(error_body(scope, 503, str(error)), 503, {"Retry-After": "1"})
    return JSONResponse(error_body(scope, 429, str(error)), 429, limit_headers(error))


def _caller(request: Request) -> Caller:
    return request.scope.get(CALLER, ANONYMOUS)  # type: ignore[no-any-return]


class RateLimitedRoute(APIRoute):
    """Route that counts a request with the service's `rate_limit` before it reads the body.

    The body is read as a `JSONRequest`; a large one is parsed and validated in a thread.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            await request.app.state.service.rate_limit.count(request)
            settings: Settings = request.app.state.service.settings
            limits = JSONLimits(
                settings.max_json_depth, settings.max_body_bytes // BYTES_PER_CONTAINER
            )
            receive = request.receive
            return await handle(JSONRequest(request.scope, receive, limits, self._validate))

        return handle_limited

    def _validate(self, body: Any) -> Any:
        """Returns the body as the route's model, which FastAPI accepts as validated.

        Raises:
            RequestValidationError: the model refuses it.
        """
        assert self.body_field is not None
        value, errors = self.body_field.validate(body, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return value


class RateLimitedPost(RateLimitedRoute):
    """Such a route for POST; other methods cost little, and polling clients call them often."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if self.methods == {"POST"}:
            return super().get_route_handler()
        return APIRoute.get_route_handler(self)
