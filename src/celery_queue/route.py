"""Route that hands lines to Celery workers in chunks, and merges their answers.

For a batch's run it is like the route inside of the process: a line goes in, and its answer comes
out, once. A line may be handed out several times, as workers and Redis may be lost; the first
answer counts, and the run stores one answer for each line number.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from src.celery_queue.keys import (
    CHUNK_SECONDS,
    QUEUE,
    TASK,
    LineAnswer,
    answers_key,
    chunk_key,
    lease_key,
    token_key,
)
from src.celery_queue.tokens import LineTokens
from src.jobs.answers import RouteAnswer
from src.jobs.records import Owner

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
"""Wait for more lines of a chunk that is not full."""

LOOK_SECONDS = 1.0
RETRY_SECONDS = 1.0
MAX_CHUNK_BYTES = 2**20
"""Size at which a chunk is full, with less than its number of lines."""

READ_LINES = 100
CLOSE_SECONDS = 3
WARN_SECONDS = 15.0
"""Shortest pause between warnings of the same kind."""

BROKER_ERRORS = (RedisError, OperationalError, OSError)
STOPPED = RouteAnswer(503, "", b"{}", retry_after=RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """Options of the route.

    Args:
        chunk_lines: lines of a chunk.
        chunk_seconds: longest work on a chunk.
        is_stopping: tells whether the process shuts down.
    """

    chunk_lines: int
    chunk_seconds: int
    is_stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Common properties of the lines of a chunk."""

    owner: Owner
    path: str
    priority: str


@dataclass(eq=False, slots=True)
class _Chunk:
    """Lines that are handed out together: request ids to their bodies, without answered ones."""

    kind: _Kind
    lines: dict[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    num_lines: int = 0


class CeleryRoute:
    """Answers lines by Celery workers. Use it as an asynchronous context manager.

    Args:
        celery: hands out chunks.
        broker_url: of the Redis that both use.
        tokens: signs the workers' credentials.
        options: bounds.
    """

    def __init__(
        self, celery: Celery, broker_url: str, tokens: LineTokens, options: RouteOptions
    ) -> None:
        self._celery, self._tokens, self._options = celery, tokens, options
        self._redis = Redis.from_url(
            broker_url, decode_responses=True, socket_timeout=5, socket_connect_timeout=3
        )
        self._server_id = secrets.token_hex(8)
        self._waiting: dict[str, asyncio.Future[RouteAnswer]] = {}
        self._gathering: dict[_Kind, _Chunk] = {}
        self._warn_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "CeleryRoute":
        self._start(self._read())
        self._start(self._watch_shutdown())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._redis.delete(answers_key(self._server_id))
        await self._redis.aclose()

    async def __call__(
        self, owner: Owner, path: str, body: bytes, request_id: str, priority: str
    ) -> RouteAnswer:
        if self._options.is_stopping():
            return STOPPED
        future: asyncio.Future[RouteAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        chunk = self._gather(_Kind(owner, path, priority), request_id, body.decode())
        try:
            return await future
        finally:
            del self._waiting[request_id]
            chunk.lines.pop(request_id, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("handing out lines failed", exc_info=error)

    def _gather(self, kind: _Kind, request_id: str, body: str) -> _Chunk:
        """Adds a line to the chunk that is being filled."""
        chunk = self._gathering.get(kind)
        if chunk is None:
            chunk = self._gathering[kind] = _Chunk(kind)
            self._start(self._hand_out_later(chunk))
        chunk.lines[request_id] = body
        chunk.num_lines += 1
        chunk.num_bytes += len(body)
        if chunk.num_lines >= self._options.chunk_lines or chunk.num_bytes >= MAX_CHUNK_BYTES:
            del self._gathering[kind]
        return chunk

    async def _hand_out_later(self, chunk: _Chunk) -> None:
        """Hands a chunk out when it is full, or no more lines come; then until it is answered."""
        await asyncio.sleep(GATHER_SECONDS)
        if self._gathering.get(chunk.kind) is chunk:
            del self._gathering[chunk.kind]
        while chunk.lines:
            try:
                await self._hand_out(chunk, secrets.token_hex(12))
            except BROKER_ERRORS as error:
                self._warn(error)
            except Exception:
                logger.exception("batches wait: lines were not handed out")
            else:
                continue
            await asyncio.sleep(RETRY_SECONDS)

    def _warn(self, error: Exception) -> None:
        """Logs a failure of Redis, not for each of the chunks that wait."""
        now = asyncio.get_running_loop().time()
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            name = type(error).__name__
            logger.warning("batches wait: the Redis of BATCH_BROKER_URL fails: %s: %s", name, error)

    async def _hand_out(self, chunk: _Chunk, chunk_id: str) -> None:
        """Hands the open lines of a chunk out; returns when they are answered, or given up."""
        key = chunk_key(chunk_id)
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for request_id, body in chunk.lines.items():
                    pipeline.hset(key, request_id, body)
                pipeline.expire(key, CHUNK_SECONDS)
                await pipeline.execute()
            await self._renew_token(chunk, chunk_id)
            await asyncio.to_thread(self._publish, chunk_id, chunk.kind.path)
            await self._until_lost(chunk, chunk_id)
        finally:
            with suppress(RedisError):
                await self._redis.delete(key, token_key(chunk_id))

    def _publish(self, chunk_id: str, path: str) -> None:
        self._celery.send_task(
            TASK, [chunk_id, self._server_id, path], queue=QUEUE, retry=False, ignore_result=True
        )

    async def _renew_token(self, chunk: _Chunk, chunk_id: str) -> None:
        """Gives workers a new token, which ends soon after the chunk."""
        seconds = 2 * self._options.chunk_seconds
        kind = chunk.kind
        token = self._tokens.sign(kind.owner, kind.path, kind.priority, seconds)
        await self._redis.set(token_key(chunk_id), token, ex=seconds)

    async def _until_lost(self, chunk: _Chunk, chunk_id: str) -> None:
        """Renews a chunk; returns when no line is open, or when its worker or Redis lost it."""
        key, was_leased, num_missing = chunk_key(chunk_id), False, 0
        clock = asyncio.get_running_loop().time
        renew_at = clock() + self._options.chunk_seconds / 2
        while chunk.lines:
            await asyncio.sleep(LOOK_SECONDS)
            if clock() >= renew_at:
                await self._renew_token(chunk, chunk_id)
                renew_at = clock() + self._options.chunk_seconds / 2
            is_known = await self._redis.expire(key, CHUNK_SECONDS)
            is_leased = await self._redis.exists(lease_key(chunk_id))
            # Answers may be on their way from Redis, so a chunk is missing if it is so twice.
            num_missing = 0 if is_known else num_missing + 1
            is_lost = was_leased and not is_leased and is_known
            if chunk.lines and (is_lost or num_missing > 1):
                logger.info("open lines are handed out again", extra={"lines": len(chunk.lines)})
                return
            was_leased = was_leased or bool(is_leased)

    async def _read(self) -> None:
        """Reads answers until cancelled."""
        key = answers_key(self._server_id)
        while True:
            try:
                first = await self._redis.blpop([key], timeout=2)
                if first is not None:
                    more = await self._redis.lpop(key, READ_LINES)
                    for text in (first[1], *(more or ())):
                        self._take(LineAnswer.load(text))
            except BROKER_ERRORS:
                await asyncio.sleep(RETRY_SECONDS)

    def _take(self, answer: LineAnswer) -> None:
        """Gives an answer to its line; has no effect if the line has one, or was given up."""
        future = self._waiting.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(
                RouteAnswer(
                    answer.status_code,
                    answer.request_id,
                    answer.body.encode(),
                    answer.retry_after,
                )
            )

    async def _watch_shutdown(self) -> None:
        """Gives all lines back to their batches when the process shuts down."""
        while not self._options.is_stopping():  # noqa: ASYNC110 - a signal sets it
            await asyncio.sleep(0.2)
        for future in self._waiting.values():
            if not future.done():
                future.set_result(STOPPED)
