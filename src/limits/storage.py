"""Redis that counts the rate limits of all replicas, with deadlines for one that is slow or gone.

All commands of an HTTP request share one budget of time (`WaitBudget`). A late answer or an error
reply fails that request alone and starts a probe. The circuit breaker opens after NUM_PROBES probes
without an answer, at once after a refused probe, and at once without a connection. `watch` probes
every second and closes the breaker again. No request waits for a probe.

A probe writes, as PING succeeds on a Redis that refuses all writes. It tells the state of the whole
storage (READONLY, OOM, BUSY, LOADING, MISCONF) from an error of one key (WRONGTYPE) without a list
of error codes. Redis refuses the first before every command, so the breaker opens and the metric
shows it. NOAUTH concerns every connection: redis-py raises it as a connection error.

A command with a late or lost answer may have been executed all the same. Commands that give
something back are therefore idempotent. They run in the background, and again after the next
successful probe until Redis has answered them. An error reply drops one, unless all are refused.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.types import Scope

from src.errors import LimitStorageDownError, SettingsError
from src.limits.circuit_breaker import CircuitBreaker

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MEMORY = "memory"
"""Value of RATE_LIMIT_STORAGE that counts in each process's memory, without Redis."""

PREFIX = "LIMITS:"
"""Prefix of all keys in Redis, as the library `limits` has it."""

ANSWER_SECONDS = 0.2
GRACE_SECONDS = 0.015
"""Extra time after a deadline: a busy event loop finds an answer and the deadline at once."""

PROBE_SECONDS = 1.0
NUM_PROBES = 3
PROBE_KEY = f"{PREFIX}probe"
PROBE_KEY_SECONDS = 60
MAX_CONNECTIONS = 32
MAX_UNSENT = 10_000
"""Messages kept while Redis does not answer; the oldest are dropped first."""

REDIS_OPTIONS: dict[str, Any] = {
    "socket_timeout": None,  # `answer_within` sets the deadlines
    "socket_connect_timeout": ANSWER_SECONDS,
    # Once more for a connection that Redis has closed since, never for an answer that is late.
    "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
    # RESP2 without client information: a new connection needs no command before the first.
    "protocol": 2,
    "driver_info": None,
}

WAIT_BUDGET = "rate_limit_wait_budget"


@dataclass(frozen=True, slots=True)
class Command(Generic[T_co]):
    """Command to Redis.

    Args:
        kind: name of the limit that it counts, for the log: its key may hold a client's address.
        send: sends it and returns its answer.
    """

    kind: str
    send: Callable[[], Coroutine[Any, Any, T_co]]


@dataclass(slots=True)
class WaitBudget:
    """Time that one HTTP request may still wait for Redis, over all its commands."""

    seconds: float = ANSWER_SECONDS


def wait_budget(scope: Scope) -> WaitBudget:
    """Returns the budget of a request, which is created at the first call."""
    budget: WaitBudget = scope.setdefault(WAIT_BUDGET, WaitBudget())
    return budget


async def answer_within(seconds: float, send: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Sends a command and returns its answer; after the deadline closes its connection.

    `asyncio.timeout` would also discard an answer that lies unread in the socket: an event loop
    that was busy runs timers before it reads sockets.

    Raises:
        TimeoutError: no answer in time.
    """
    task = asyncio.create_task(send())
    try:
        for timeout in (seconds, GRACE_SECONDS):
            await asyncio.wait([task], timeout=timeout)
            if task.done():
                return task.result()
    finally:
        task.cancel()
    raise TimeoutError(f"no answer within {seconds:.3g} s")


class SharedStorage:
    """Client of a Redis that may be slow or gone.

    Args:
        url: of the Redis.
        storage_up: set to 1 while Redis answers, to 0 while it does not.

    Raises:
        SettingsError: the URL is malformed.
    """

    def __init__(self, url: str, storage_up: Gauge) -> None:
        try:
            self.pool = BlockingConnectionPool.from_url(
                url, max_connections=MAX_CONNECTIONS, timeout=None, **REDIS_OPTIONS
            )
            # A connection of its own, so that a probe waits for no command.
            self._probe_client = Redis.from_url(url, **REDIS_OPTIONS)
        except ValueError as error:
            raise SettingsError(
                f"RATE_LIMIT_STORAGE must be {MEMORY} or the URL of a Redis, such as"
                f" redis://localhost:6379/0: {error}."
            ) from None
        self.client = Redis.from_pool(self.pool)
        self._breaker = CircuitBreaker(storage_up)
        self._probe: asyncio.Task[None] | None = None
        self._unsent: deque[Command[object]] = deque(maxlen=MAX_UNSENT)
        self._sending: set[asyncio.Task[None]] = set()
        self._logged: set[str] = set()

    @property
    def is_up(self) -> bool:
        """Returns True while commands are sent."""
        return not self._breaker.is_open

    async def run(
        self, command: Command[T], budget: WaitBudget, undo: Command[object] | None = None
    ) -> T:
        """Returns the answer to a command, or raises its exception.

        Args:
            command: sent once.
            budget: of its request.
            undo: idempotent command that reverts the first one; posted if the answer is late,
                lost or an error, or the request was cancelled.

        Raises:
            LimitStorageDownError: no answer in time, an error reply, no budget left, or the circuit
                breaker is open. The last two send nothing.
        """
        if self._breaker.is_open or budget.seconds <= 0:
            raise LimitStorageDownError
        try:
            return await self._answer(command, budget)
        except BaseException:  # a cancelled command may have been executed, too
            if undo is not None:
                self.post(undo)
            raise

    async def _answer(self, command: Command[T], budget: WaitBudget) -> T:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            return await answer_within(budget.seconds, command.send)
        except (TimeoutError, RedisError) as error:
            self._handle_failure(command.kind, error)
            raise LimitStorageDownError from error
        finally:
            budget.seconds -= loop.time() - start

    def post(self, message: Command[object]) -> None:
        """Sends an idempotent command in the background, again until Redis has answered it."""
        if self._breaker.is_open:
            self._unsent.append(message)
            return
        task = asyncio.create_task(self._send(message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, message: Command[object]) -> None:
        try:
            await answer_within(ANSWER_SECONDS, message.send)
        except ResponseError as error:
            self._log_refusal(message.kind, error)
            await self._start_probe()
            if self._breaker.is_open:  # otherwise its key is at fault, and it would fail again
                self._unsent.append(message)
        except (TimeoutError, RedisError):  # opening the breaker is left to commands and probes
            self._unsent.append(message)

    async def watch(self, renew: Callable[[], Awaitable[None]]) -> None:
        """Probes Redis every second until cancelled.

        Args:
            renew: run after each successful probe; may raise LimitStorageDownError.
        """
        while True:
            await self._run_probes()
            if self.is_up:
                unsent, self._unsent = self._unsent, deque(maxlen=MAX_UNSENT)
                for message in unsent:
                    self.post(message)
                with suppress(LimitStorageDownError):
                    await renew()
            await asyncio.sleep(PROBE_SECONDS)

    def _handle_failure(self, kind: str, error: Exception) -> None:
        if isinstance(error, RedisConnectionError):
            self._breaker.open(error)
            return
        if isinstance(error, ResponseError):
            self._log_refusal(kind, error)
        self._start_probe()

    def _log_refusal(self, kind: str, error: ResponseError) -> None:
        """Logs an error reply without arguments, once for each kind of command and code."""
        reason = str(error).partition(", with args")[0]  # an unknown command's reply quotes them
        if error.status_code:  # which redis-py has cut from the message
            reason = f"{error.status_code} {reason}"
        refusal = f"{kind}: {reason.partition(' ')[0]}"
        if refusal not in self._logged:
            self._logged.add(refusal)
            logger.warning("Redis refuses a command that counts %s: %s", kind, reason)

    def _start_probe(self) -> asyncio.Task[None]:
        """Starts the probes unless they run already; returns their task."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._run_probes())
        return self._probe

    async def _run_probes(self) -> None:
        """Closes the circuit breaker at the first successful probe; opens it without any.

        One late answer may be due to this process alone, if its cores were busy.
        """
        for _ in range(NUM_PROBES):
            try:
                await answer_within(ANSWER_SECONDS, self._write)
            except (TimeoutError, RedisTimeoutError) as error:
                problem: Exception = error
            except RedisError as error:
                problem = error
                break
            else:
                self._breaker.close()
                return
        self._breaker.open(problem)

    async def _write(self) -> None:
        await self._probe_client.set(PROBE_KEY, 1, ex=PROBE_KEY_SECONDS)

    async def close(self) -> None:
        """Waits briefly for posted messages, then closes all connections."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=ANSWER_SECONDS)
        for task in (*self._sending, *filter(None, [self._probe])):
            task.cancel()
        await self.client.aclose()
        await self._probe_client.aclose()
