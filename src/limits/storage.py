"""Where requests are counted: in this process's memory, or in a Redis that all replicas share.

A Redis can be slow or gone, and that must hold up nobody. It is asked in threads of its own. All
questions of one request together wait for ANSWER_SECONDS at most, but for LEAST_SECONDS each. One
question without an answer in time is that request's alone, and makes somebody look: if there is
none again and again, or no connection, nobody asks any more until `watch`, which tries again every
second, has heard from it. The metric says which of the two it is. What an answer that came too late
has taken is given back, and what was to be given back meanwhile is told afterwards.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import Gauge
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from limits.storage import RedisStorage
from src.errors import LimitStorageDownError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY = "memory"
ANSWER_SECONDS = 0.2
LEAST_SECONDS = 0.015
"""So that a request whose event loop was busy does not take an answer for a silence."""

WATCH_SECONDS = 1.0
NUM_LOOKS = 3
"""So many questions that nobody waits for have no answer in time before the storage is down."""

NUM_THREADS = 8
MAX_UNTOLD = 10_000
"""Messages that are kept while the storage is down; of more the oldest are dropped."""


@dataclass(slots=True)
class Patience:
    """How long a request may yet wait for answers."""

    seconds: float = ANSWER_SECONDS


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


def begin_waiting() -> None:
    """From here on all questions of this context share one time to wait: a request has begun."""
    _patience.set(Patience())


def redis_options() -> dict[str, Any]:
    """How the client is to wait: not long, and once more for a connection that has ended meanwhile.

    What has no answer in time is not asked again: both may be counted.
    """
    return {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
    }


class SharedStorage:
    """Asks a storage that may be slow or gone.

    Args:
        storage: what is asked.
        up: set to 1 while it answers, to 0 while it does not.
        renew: is run in a thread each time it has answered `watch`, so that what would end there
            does not.
    """

    def __init__(self, storage: RedisStorage, up: Gauge, renew: Callable[[], None]) -> None:
        self._connection = storage.get_connection()
        self._up = up
        self._renew = renew
        self._is_up = True
        self._untold: deque[Callable[[], None]] = deque(maxlen=MAX_UNTOLD)
        self._threads = ThreadPoolExecutor(NUM_THREADS, "limit-storage")
        self._looking = ThreadPoolExecutor(1, "limit-storage-look")  # behind no other question
        self._look_again: asyncio.Task[None] | None = None
        self._is_doubted = False

    async def ask(self, question: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Runs a question to the storage in a thread, and raises what it raises.

        Args:
            question: what is asked.
            undo: takes back what the question did, if its answer comes when nobody waits for it any
                more; is run in a thread.

        Raises:
            LimitStorageDownError: it did not answer in time, or has not answered lately.
        """
        if not self._is_up:
            raise LimitStorageDownError
        loop = asyncio.get_running_loop()
        patience = _patience.get() or Patience()
        began = loop.time()
        asked = self._threads.submit(question)
        answer, is_heard = asyncio.wrap_future(asked), False
        try:
            await asyncio.wait([answer], timeout=max(patience.seconds, LEAST_SECONDS))
            patience.seconds -= loop.time() - began
            is_heard = answer.done()
            if is_heard:
                return answer.result()
            self._doubt()
        except RedisTimeoutError:
            self._doubt()
        except RedisError as error:
            self._down(error)
        finally:
            if not is_heard:
                self._forget(asked, undo)
                answer.cancel()
        raise LimitStorageDownError

    def _forget(self, asked: Future[T], undo: Callable[[T], None] | None) -> None:
        """Nobody waits for this answer any more."""

        def take_back(asked: Future[T]) -> None:
            if undo is not None and not asked.cancelled() and asked.exception() is None:
                self._submit(lambda: undo(asked.result()))

        if not asked.cancel():
            asked.add_done_callback(take_back)

    def tell(self, message: Callable[[], None], *, is_kept: bool = False) -> None:
        """Runs in a thread what need not be waited for, if the storage answers.

        Args:
            message: sent once at most, as one that got no answer may have arrived.
            is_kept: while the storage is down, or may be, it is kept until it answers again.
        """
        if self._is_up and not self._is_doubted:
            self._submit(message)
        elif is_kept:
            self._untold.append(message)

    def _submit(self, message: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the process ends
            self._threads.submit(self._run, message)

    def _run(self, message: Callable[[], None]) -> None:
        with suppress(RedisError):  # whoever asks next, or `watch`, notices
            message()

    async def watch(self) -> None:
        """Notices when the storage comes or goes, until it is cancelled."""
        while True:
            await self._check()
            await asyncio.sleep(WATCH_SECONDS)

    def _doubt(self) -> None:
        """An answer came too late: that may be this process's own fault, whose cores are busy."""
        self._is_doubted = True
        if self._is_up and (self._look_again is None or self._look_again.done()):
            self._look_again = asyncio.create_task(self._check())

    async def _check(self) -> None:
        """Whether the storage answers to one of some questions that nobody waits for."""
        loop = asyncio.get_running_loop()
        for _ in range(NUM_LOOKS):
            try:
                await loop.run_in_executor(self._looking, self._look)
            except RedisTimeoutError as error:
                problem: RedisError = error
            except RedisError as error:
                problem = error
                break
            else:
                self._answers()
                return
        self._down(problem)

    def _look(self) -> None:
        self._connection.ping()
        self._renew()

    def close(self) -> None:
        for threads in (self._threads, self._looking):
            threads.shutdown(wait=False, cancel_futures=True)

    def _down(self, problem: object) -> None:
        self._up.set(0)
        if self._is_up:
            logger.error("rate limits are not counted, the storage is down: %s", problem)
        self._is_up = False

    def _answers(self) -> None:
        self._up.set(1)
        self._is_doubted = False
        if not self._is_up:
            logger.warning("rate limits are counted again, the storage answers")
        self._is_up = True
        while self._untold:
            self._submit(self._untold.popleft())
