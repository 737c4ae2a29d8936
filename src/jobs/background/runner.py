"""Runner of background responses, in each of the server's processes."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from src.errors import ServiceError
from src.jobs.answers import Route, RouteAnswer
from src.jobs.background.store import BackgroundStore, LeasedResponse, ResponseStatus

logger = logging.getLogger(__name__)

PATH = "/v1/responses"
PRIORITY = "default"
"""Priority class of the requests; clients poll for them."""

POLL_SECONDS = 1.0
SWEEP_SECONDS = 60.0
MAX_ATTEMPTS = 3
"""Attempts at a request that the server's time limit ended; other refusals for now do not count."""

MAX_WAIT_SECONDS = 60.0


class BackgroundObserver(Protocol):
    """Counts the work on background responses."""

    def responses_measured(self, num_open: int, num_running: int) -> None:
        """Gets the number of all that have not ended, and of those that run in this process."""

    def response_ended(self, status: str) -> None:
        """Counts a response that was answered."""


@dataclass(frozen=True, slots=True)
class BackgroundOptions:
    """Options of a runner.

    Args:
        concurrency: responses of this process that run at the same time.
        served_model: first name of the served model; requests for other models are left alone.
        is_stopping: tells whether the process shuts down.
    """

    concurrency: int
    served_model: str
    is_stopping: Callable[[], bool]


class BackgroundRunner:
    """Answers queued responses until the process shuts down.

    Args:
        store: of all responses.
        route: answers the requests.
        options: bounds.
        observer: counts responses.
    """

    def __init__(
        self,
        store: BackgroundStore,
        route: Route,
        options: BackgroundOptions,
        observer: BackgroundObserver,
    ) -> None:
        self._store, self._route, self._options = store, route, options
        self._observer = observer
        self._token = secrets.token_hex(8)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Looks for new and for cancelled responses at once."""
        self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled, or until all responses in progress have ended in a shutdown."""
        clock = asyncio.get_running_loop().time
        next_sweep = 0.0
        try:
            while self._running or not self._options.is_stopping():
                self._wake.clear()
                if clock() >= next_sweep:
                    await self._guard(self._store.sweep())
                    next_sweep = clock() + SWEEP_SECONDS
                await self._guard(self._look())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        finally:
            await self._give_back()

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Awaits `work`; an error of the disk is logged, and it is tried again later."""
        try:
            await work
        except ServiceError as error:
            logger.error("background responses wait: %s", error, exc_info=error.__cause__)

    async def _look(self) -> None:
        """Ends what was cancelled, and starts what waits."""
        if self._running:
            renewed = dict(self._running)
            kept = await self._store.renew(renewed, self._token)
            for response_id in renewed.keys() - kept:
                renewed[response_id].cancel()
        await self._start_waiting()
        self._observer.responses_measured(await self._store.count_open(), len(self._running))

    async def _start_waiting(self) -> None:
        while len(self._running) < self._options.concurrency and not self._options.is_stopping():
            leased = await self._store.claim(self._options.served_model, self._token)
            if leased is None:
                return
            task = asyncio.create_task(self._answer(leased))
            self._running[leased.id] = task
            task.add_done_callback(partial(self._end, leased.id))

    def _end(self, response_id: str, task: asyncio.Task[None]) -> None:
        del self._running[response_id]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background response failed; it is tried again", exc_info=error)

    async def _give_back(self) -> None:
        """Queues again what is in progress."""
        running = dict(self._running)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        if running:
            await self._guard(self._store.release(running, self._token))

    async def _answer(self, leased: LeasedResponse) -> None:
        answer = await self._send(leased)
        if answer is None:
            await self._store.release([leased.id], self._token)
            return
        status, values = _outcome(leased, answer)
        if await self._store.finish(leased.id, self._token, status, values):
            self._observer.response_ended(status.value)
            logger.info(
                "a background response has ended",
                extra={"response": leased.id, "status": status.value},
            )

    async def _send(self, leased: LeasedResponse) -> RouteAnswer | None:
        """Returns the route's answer; None if the process shuts down before."""
        num_attempts = 0
        while not self._options.is_stopping():
            answer = await self._route(leased.owner, PATH, leased.request, leased.id, PRIORITY)
            num_attempts += answer.status_code == 504
            if answer.retry_after is None or num_attempts == MAX_ATTEMPTS:
                return answer
            await self._wait(answer.retry_after)
        return None

    async def _wait(self, seconds: float) -> None:
        """Waits before the next attempt; a shutdown ends it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, MAX_WAIT_SECONDS)
        while (  # noqa: ASYNC110 - a signal may end it too
            loop.time() < until and not self._options.is_stopping()
        ):
            await asyncio.sleep(min(0.2, seconds))


def _outcome(leased: LeasedResponse, answer: RouteAnswer) -> tuple[ResponseStatus, dict[str, Any]]:
    """Returns the last state of a response: the route's answer under the id that clients know."""
    body = json.loads(answer.body)
    if answer.status_code == 200:
        own = {name: leased.answer[name] for name in ("id", "created_at", "background")}
        return ResponseStatus(body["status"]), body | own
    code = "server_error" if answer.status_code >= 500 else "invalid_prompt"
    error = {"code": code, "message": body["error"]["message"]}
    values = leased.answer | {"status": ResponseStatus.FAILED, "error": error}
    return ResponseStatus.FAILED, values
