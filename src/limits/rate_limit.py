"""Limits what a caller may have: requests, with SlowAPI, requests at the same time, and tokens.

`RateLimitedRoute` counts the requests of all routes of a router.

The route counts a request before its body is read, so bad requests count as good ones do, and a
flood of them costs no parsing. SlowAPI's own ways do not do that: its decorators run after the
body's validation, and its middlewares wrap streams or repeat their head.
"""

import math
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Gauge
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.responses import JSONResponse
from starlette.types import Scope

from limits.storage import MemoryStorage, RedisStorage
from src.config import Settings
from src.core.identity import ANONYMOUS, Caller
from src.errors import LimitStorageDownError, RateLimitedError, SettingsError
from src.limits.client_address import rate_limit_key
from src.limits.concurrency import Concurrency, Lease
from src.limits.storage import MEMORY, SharedStorage, redis_options
from src.limits.token_quota import Reservation, TokenCount
from src.middleware.error_body import CALLER, error_body
from src.middleware.request_body import BYTES_PER_CONTAINER, JSONLimits, JSONRequest

T = TypeVar("T")

ALLOWANCES = "allowances"
"""Where `UsageMiddleware` has a request's scope collect what is left of each limit, by its name."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has left of a limit.

    Args:
        limit: of what.
        quota: how much there is.
        period: in so many seconds; None is at the same time.
        left: how much of that is left.
        reset: whole seconds after which there is more; None if that is not known.
    """

    limit: str
    quota: int
    period: int | None
    left: int
    reset: int | None = None


class RateLimit:
    """Counts requests over a window that moves, and tokens over one that nearly does.

    All routes share one count for each key, or for each peer's address if nobody has a key.

    Args:
        settings: how many requests, in how long, counted where.
        storage_up: set to 0 while the storage of the counts does not answer.

    Raises:
        SettingsError: RATE_LIMIT_STORAGE is no address.
    """

    def __init__(self, settings: Settings, storage_up: Gauge) -> None:
        self._limiter = _create_limiter(settings.rate_limit_storage)
        self._is_open = settings.rate_limit_storage_failure == "open"
        self._period = settings.rate_limit_period
        self._usual = settings.request_limit
        self._limits: dict[int, Callable[[Request], None]] = {}
        self._address = self._declare(settings.rate_limit_address_requests, "address", _address)
        storage = self._limiter._storage
        assert isinstance(storage, MemoryStorage | RedisStorage)
        self._tokens = TokenCount(storage, self._period)
        self._concurrency = Concurrency(storage)
        self.storage: SharedStorage | None = None
        if isinstance(storage, RedisStorage):
            self.storage = SharedStorage(storage, storage_up, self._concurrency.renew)
        storage_up.set(1)

    async def count(self, request: Request) -> None:
        """Counts a request of its caller.

        Raises:
            RateLimitedError: over the limit.
            LimitStorageDownError: it cannot be counted, and such a request is to be refused.
        """
        most = _caller(request).limits.requests or self._usual
        if most is None:
            return
        if most not in self._limits:  # as many as keys have different ones
            self._limits[most] = self._declare(most, "requests", _who)
        hit = self._limits[most]
        allowance = await self._ask(lambda: self._count(request, hit, "requests"))
        if allowance is not None and ALLOWANCES in request.scope:
            request.scope[ALLOWANCES]["requests"] = allowance

    async def count_address(self, scope: Scope) -> None:
        """Counts a request of whom nothing is known yet but the address; raises as `count`."""
        request = Request({**scope, "state": {}})  # SlowAPI counts but once what has its mark there
        await self._ask(lambda: self._count(request, self._address, "address", is_told=False))

    async def reserve_tokens(self, who: str, num_tokens: int, quota: int) -> Reservation | None:
        """Takes tokens; None if they cannot be counted and that does not matter.

        Raises:
            RateLimitedError: so many are not left.
            LimitStorageDownError: as of `count`.
        """
        return await self._ask(
            lambda: self._tokens.reserve(who, num_tokens, quota),
            lambda reservation: self._tokens.give_back(reservation, num_tokens),
        )

    def give_back_tokens(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives back some of them, soon."""
        if self.storage is None:
            self._tokens.give_back(reservation, num_tokens)
        else:
            # There are no more of them than requests that ran when it went down.
            self.storage.tell(lambda: self._tokens.give_back(reservation, num_tokens), is_kept=True)

    async def begin(self, who: str, most: int) -> Lease:
        """A caller has one more request answered, of so many at the same time; see `end`.

        Raises:
            RateLimitedError: that would be more.
            LimitStorageDownError: as of `count`.
        """
        lease = Lease(who)
        await self._ask(
            lambda: self._concurrency.take(lease, most),
            lambda _: self._concurrency.release(lease),
        )
        self._concurrency.hold(lease)
        return lease

    def end(self, lease: Lease) -> None:
        """The request is answered."""
        self._concurrency.let_go(lease)
        if self.storage is not None:
            self.storage.tell(lambda: self._concurrency.release(lease))

    async def _ask(
        self, question: Callable[[], T], undo: Callable[[T], None] | None = None
    ) -> T | None:
        if self.storage is None:
            return question()
        try:
            return await self.storage.ask(question, undo)
        except LimitStorageDownError:
            if not self._is_open:
                raise
        return None

    def _declare(
        self, num_requests: int, name: str, key: Callable[[Request], str]
    ) -> Callable[[Request], None]:
        """A limit of SlowAPI's: a function that counts a request when it is called."""

        def hit(request: Request) -> None:
            """All that there is to do is done by the decorator."""

        hit.__name__ = f"{name}_{num_requests}"  # by which SlowAPI tells limits apart
        declared = f"{num_requests} per {self._period} seconds"
        return self._limiter.shared_limit(declared, scope=name, key_func=key)(hit)  # type: ignore[no-any-return]

    def _count(
        self, request: Request, hit: Callable[[Request], None], name: str, *, is_told: bool = True
    ) -> Allowance | None:
        """Counts; what is left is another question to the storage, asked if somebody is told."""
        exceeded: RateLimitExceeded | None = None
        try:
            hit(request)
        except RateLimitExceeded as error:
            exceeded = error
        if exceeded is None and not is_told:
            return None
        limit, arguments = request.state.view_rate_limit
        reset_time, left = self._limiter.limiter.get_window_stats(limit, *arguments)
        wait = reset_time - time.time()
        if exceeded is not None:
            raise RateLimitedError(name, limit.amount, self._period, left, wait) from exceeded
        return Allowance(name, limit.amount, self._period, left, max(1, math.ceil(wait)))


def allowance_headers(allowances: Collection[Allowance]) -> dict[str, str]:
    """What is left of limits, as draft-ietf-httpapi-ratelimit-headers-10 has it."""
    left, policies = [], []
    for one in allowances:
        reset = "" if one.reset is None else f";t={one.reset}"
        window = "" if one.period is None else f";w={one.period}"
        left.append(f'"{one.limit}";r={one.left}{reset}')
        policies.append(f'"{one.limit}";q={one.quota}{window}')
    return {"RateLimit": ", ".join(left), "RateLimit-Policy": ", ".join(policies)}


def limit_headers(error: RateLimitedError) -> dict[str, str]:
    """What the headers of a 429 say: which limit, how much is left, when to come again."""
    refused = Allowance(error.limit, error.quota, error.period, error.left, error.retry_after)
    return {"Retry-After": str(error.retry_after)} | allowance_headers([refused])


def limit_response(scope: Scope, error: RateLimitedError | LimitStorageDownError) -> JSONResponse:
    """The answer where no route has been reached yet."""
    if isinstance(error, LimitStorageDownError):
        return JSONResponse(error_body(scope, 503, str(error)), 503, {"Retry-After": "1"})
    return JSONResponse(error_body(scope, 429, str(error)), 429, limit_headers(error))


def _caller(request: Request) -> Caller:
    return request.scope.get(CALLER, ANONYMOUS)  # type: ignore[no-any-return]


def _who(request: Request) -> str:
    return _caller(request).id or _address(request)


def _address(request: Request) -> str:
    return rate_limit_key(request.scope)


def _create_limiter(storage: str) -> Limiter:
    is_memory = storage == MEMORY
    try:
        limiter = Limiter(
            _address,
            strategy="moving-window",
            storage_uri="memory://" if is_memory else storage,
            storage_options={} if is_memory else redis_options(),
        )
    except ValueError as error:
        raise SettingsError(f"RATE_LIMIT_STORAGE is no address of a Redis: {error}.") from None
    limiter.enabled = True  # whatever RATELIMIT_ENABLED, which is no setting of ours, says
    return limiter


class RateLimitedRoute(APIRoute):
    """A route that counts a request with the service's `rate_limit` before anything else.

    Its body is then read as a `JSONRequest`'s; a large one is parsed and validated in a thread.
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
        """The body as the route's model, which FastAPI then takes as it is.

        Raises:
            RequestValidationError: the model refuses it.
        """
        assert self.body_field is not None
        value, errors = self.body_field.validate(body, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return value
