"""Work on one chunk in a Celery worker: its lines go to the service over HTTP.

429, 503 and failures of the connection are no answers: the line waits as long as `Retry-After` says
and is sent again. What is open at the chunk's deadline goes back to the server, and so does all
that a killed worker leaves.
"""

import asyncio
import logging
import secrets
import ssl
from dataclasses import dataclass
from functools import cache

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError

from src.celery_queue.keys import (
    ACCEPTED_HEADER,
    ANSWERS_SECONDS,
    LEASE_SECONDS,
    MAX_WAIT_SECONDS,
    RENEW_SECONDS,
    TOKEN_HEADER,
    LineAnswer,
    answers_key,
    chunk_key,
    lease_key,
    token_key,
)

logger = logging.getLogger(__name__)

RETRIED = (429, 503)
RETURNED = (504,)
"""Statuses that the server counts and sends again itself."""

RETRY_SECONDS = 1.0
"""Pause without a `Retry-After`; doubled after each failure of the connection."""


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """A chunk to work on.

    Args:
        chunk_id: of its keys in Redis.
        server_id: server that waits for the answers.
        path: of the route.
    """

    chunk_id: str
    server_id: str
    path: str


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Options of a worker.

    Args:
        broker_url: of Redis.
        service_url: base URL of the service, of a replica or of a load balancer before them.
        concurrency: lines of a chunk that run at the same time.
        chunk_seconds: longest work on a chunk.
        request_seconds: longest wait for an answer of the service.
    """

    broker_url: str
    service_url: str
    concurrency: int
    chunk_seconds: float
    request_seconds: float


@cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


async def answer_chunk(task: ChunkTask, options: WorkerOptions) -> None:
    """Answers the open lines of a chunk; has no effect if another worker does, or none is open.

    A failure of Redis ends the work: the server hands out the open lines again.
    """
    redis = Redis.from_url(options.broker_url, decode_responses=True, socket_timeout=5)
    lease = secrets.token_hex(8)
    try:
        is_mine = await redis.set(lease_key(task.chunk_id), lease, nx=True, ex=LEASE_SECONDS)
        if not is_mine:
            return
        async with httpx2.AsyncClient(
            base_url=options.service_url, timeout=options.request_seconds, verify=_certificates()
        ) as http:
            await _Work(task, options, redis, http).run(lease)
    except* RedisError as errors:
        logger.warning("a chunk ends early, as Redis failed: %s", errors.exceptions[0])
    finally:
        await redis.aclose()


class _Work:
    """Work on one chunk."""

    def __init__(
        self, task: ChunkTask, options: WorkerOptions, redis: Redis, http: httpx2.AsyncClient
    ) -> None:
        self._task, self._options, self._redis, self._http = task, options, redis, http
        self._chunk = chunk_key(task.chunk_id)
        self._slots = asyncio.Semaphore(options.concurrency)

    async def run(self, lease: str) -> None:
        """Works until all lines are answered, the deadline passes or the lease is lost."""
        renewal = asyncio.create_task(self._renew(lease))
        work = asyncio.create_task(self._answer_all())
        try:
            await asyncio.wait(
                [renewal, work],
                timeout=self._options.chunk_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for part in (renewal, work):
                part.cancel()
            results = await asyncio.gather(renewal, work, return_exceptions=True)
            await self._release(lease)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _renew(self, lease: str) -> None:
        """Renews the lease; returns when it is lost or the server does not want answers."""
        key = lease_key(self._task.chunk_id)
        while await self._redis.get(key) == lease and await self._redis.exists(self._chunk):
            await self._redis.expire(key, LEASE_SECONDS)
            await asyncio.sleep(RENEW_SECONDS)

    async def _release(self, lease: str) -> None:
        """Ends the lease at once, so that the server need not wait for its end."""
        key = lease_key(self._task.chunk_id)
        try:
            if await self._redis.get(key) == lease:
                await self._redis.delete(key)
        except RedisError:
            logger.warning("a lease was not released: it ends by itself")

    async def _answer_all(self) -> None:
        lines = await self._redis.hgetall(self._chunk)
        async with asyncio.TaskGroup() as group:
            for request_id, body in lines.items():
                group.create_task(self._answer(str(request_id), str(body)))

    async def _answer(self, request_id: str, body: str) -> None:
        async with self._slots:
            pause = RETRY_SECONDS
            while await self._redis.hexists(self._chunk, request_id):
                answer = await self._send(request_id, body)
                if answer is not None and answer.status_code not in RETRIED:
                    await self._save(answer)
                    return
                if answer is None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MAX_WAIT_SECONDS)
                else:
                    await asyncio.sleep(min(answer.retry_after or pause, MAX_WAIT_SECONDS))

    async def _send(self, request_id: str, body: str) -> LineAnswer | None:
        """Returns the service's answer; None if something else answered, or nothing."""
        token = await self._redis.get(token_key(self._task.chunk_id))
        headers = {
            "Content-Type": "application/json",
            "X-Request-ID": request_id,
            TOKEN_HEADER: str(token or ""),
        }
        try:
            response = await self._http.post(self._task.path, content=body, headers=headers)
        except httpx2.HTTPError as error:
            logger.warning("the service does not answer: %s", type(error).__name__)
            return None
        if ACCEPTED_HEADER not in response.headers:
            logger.warning(
                "the service did not accept the batch token (status %d): give all servers the same"
                " BATCH_TOKEN_SECRET, and workers a BATCH_SERVICE_URL that leads to them",
                response.status_code,
            )
            return None
        status = response.status_code
        retry_after = _retry_after(response) if status in (*RETRIED, *RETURNED) else None
        return LineAnswer(request_id, status, response.text, retry_after)

    async def _save(self, answer: LineAnswer) -> None:
        key = answers_key(self._task.server_id)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(key, answer.dump())
            pipeline.expire(key, ANSWERS_SECONDS)
            pipeline.hdel(self._chunk, answer.request_id)
            await pipeline.execute()


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else RETRY_SECONDS
