"""Work on one leased batch, from its state to its end, or to a shutdown.

Lines go through the service's routes at most once at a time. A process that is killed loses the
answers that it was waiting for; the next runner sends these lines again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from src.errors import ServiceError
from src.jobs.access import Jobs
from src.jobs.answers import (
    CANCELLED,
    EXPIRED,
    FAILED,
    Observer,
    Route,
    RouteAnswer,
    new_request_id,
    route_line,
)
from src.jobs.batches import RENEW_SECONDS, Lease
from src.jobs.drafts import Drafts
from src.jobs.lines import LineRules, dump_body, parse_line
from src.jobs.records import Batch, Counts, Problem, Status, StoredFile
from src.jobs.validation import validate
from src.jobs.worklist import OpenLine, Worklist

logger = logging.getLogger(__name__)

PRIORITY = "batch"
"""Priority class of all lines."""

MAX_ATTEMPTS = 3
"""Attempts at a line that the server's time limit ended; other refusals for now do not count."""

MAX_WAIT_SECONDS = 60.0
POSTPONE_SECONDS = 15.0
"""Pause of a batch after an error of the disk."""

LOST_INPUT = Problem(
    "input_file_not_found", "The content of the input file was removed from the server."
)


class End(Enum):
    """Reason for which no more lines of a batch are sent."""

    DONE = auto()
    CANCELLED = auto()
    EXPIRED = auto()
    STOPPED = auto()  # the process shuts down
    LOST = auto()  # the lease


FINAL = {
    End.DONE: (Status.COMPLETED, FAILED),
    End.CANCELLED: (Status.CANCELLED, CANCELLED),
    End.EXPIRED: (Status.EXPIRED, EXPIRED),
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Bounds of batches.

    Args:
        max_lines: of a batch.
        max_line_bytes: of a line.
        concurrency: lines of this process that run at the same time.
        is_served: tells whether a model's name may be used.
        is_stopping: tells whether the process shuts down.
    """

    max_lines: int
    max_line_bytes: int
    concurrency: int
    is_served: Callable[[str], bool]
    is_stopping: Callable[[], bool]


class BatchRun:
    """Work on one batch.

    Args:
        lease: of the batch.
        jobs: stores of files and batches.
        route: answers the lines.
        options: bounds.
        slots: bounds the running lines of all batches of this process.
        observer: counts lines.
    """

    def __init__(
        self,
        lease: Lease,
        jobs: Jobs,
        route: Route,
        options: RunOptions,
        slots: asyncio.Semaphore,
        observer: Observer,
    ) -> None:
        self._lease, self._jobs, self._route = lease, jobs, route
        self._options, self._slots, self._observer = options, slots, observer
        self._batch = lease.batch
        self._worklist = Worklist(jobs.folder.batch_lines(lease.batch.id))
        self._input = jobs.folder.batch_input(lease.batch.id)
        self._reading = asyncio.Lock()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.counts = lease.batch.counts
        self.num_running = 0

    @property
    def owner_id(self) -> str:
        return self._lease.owner.id

    async def run(self) -> None:
        """Works until the batch ends, the lease is lost or the process shuts down."""
        renewal = asyncio.create_task(self._renew())
        postpone = 0.0
        try:
            await self._process()
        except FileNotFoundError:
            await self._fail([LOST_INPUT])
        except ServiceError as error:
            logger.error(
                "a batch pauses: %s",
                error,
                extra={"batch": self._batch.id},
                exc_info=error.__cause__,
            )
            postpone = POSTPONE_SECONDS
        finally:
            renewal.cancel()
            await self._leave(postpone)

    async def _leave(self, postpone: float) -> None:
        await self._worklist.close()
        try:
            await self._jobs.batches.release(self._lease, self.counts, postpone)
        except ServiceError:
            logger.warning("a lease was not released: it ends by itself", exc_info=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                status = await self._jobs.batches.renew(self._lease, self.counts)
            except ServiceError:
                logger.warning("a lease was not renewed", exc_info=True)
                continue
            if status is None:
                self._finish_with(End.LOST)
            elif status is Status.CANCELLING:
                self._finish_with(End.CANCELLED)
            elif self._jobs.clock.now() >= self._batch.expires_at:
                self._finish_with(End.EXPIRED)

    def _finish_with(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    async def _process(self) -> None:
        batch = self._batch
        if not self._input.exists():
            raise FileNotFoundError
        if batch.status is Status.VALIDATING and not await self._validate():
            return
        self.counts = await self._worklist.count()
        if batch.status is Status.CANCELLING:
            self._finish_with(End.CANCELLED)
        elif self._jobs.clock.now() >= batch.expires_at and batch.status is not Status.FINALIZING:
            self._finish_with(End.EXPIRED)
        end = await self._answer_all()
        if end is End.DONE and not await self._jobs.batches.enter(
            self._lease, Status.FINALIZING, self.counts, self._batch.model
        ):
            end = End.CANCELLED
        if end in FINAL:
            status, reason = FINAL[end]
            await self._publish(status, reason, [])

    async def _validate(self) -> bool:
        """Returns whether the batch goes on."""
        await self._worklist.clear()
        rules = LineRules(
            self._batch.endpoint, self._options.max_line_bytes, self._options.is_served
        )
        findings = await asyncio.to_thread(
            validate, self._input, rules, self._options.max_lines, self._worklist
        )
        if findings.problems:
            await self._fail(findings.problems)
            return False
        self.counts = Counts(total=findings.num_lines)
        self._batch = replace(self._batch, status=Status.IN_PROGRESS, model=findings.model)
        if not await self._jobs.batches.enter(
            self._lease, Status.IN_PROGRESS, self.counts, findings.model
        ):
            self._finish_with(End.CANCELLED)
        return True

    async def _answer_all(self) -> End:
        """Answers open lines until all are answered, or the batch ends otherwise."""
        if self._end.done():
            return self._end.result()
        source = self._open_lines()
        workers = [
            asyncio.create_task(self._work(source)) for _ in range(self._options.concurrency)
        ]
        all_done = asyncio.gather(*workers)
        try:
            either: list[asyncio.Future[Any]] = [all_done, self._end]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                return self._end.result()
            await all_done
            return End.STOPPED if self._options.is_stopping() else End.DONE
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, all_done, return_exceptions=True)

    async def _open_lines(self) -> AsyncIterator[OpenLine]:
        last = 0
        while page := await self._worklist.open_after(last):
            for line in page:
                last = line.number
                yield line

    @property
    def _is_ending(self) -> bool:
        return self._end.done() or self._options.is_stopping()

    async def _work(self, source: AsyncIterator[OpenLine]) -> None:
        while not self._is_ending:
            line = await self._next(source)
            if line is None:
                return
            await self._answer(line)

    async def _next(self, source: AsyncIterator[OpenLine]) -> OpenLine | None:
        async with self._reading:
            return await anext(source, None)

    async def _answer(self, line: OpenLine) -> None:
        """Answers a line, unless the process shuts down before."""
        answer = await self._send(line)
        if answer is None:
            return
        text = route_line(line.custom_id, answer)
        if await self._worklist.save(line.number, text):
            is_error = int(text.is_error)
            self._observer.line_ended(is_error=text.is_error)
            self.counts = replace(
                self.counts,
                completed=self.counts.completed + 1 - is_error,
                failed=self.counts.failed + is_error,
            )

    async def _send(self, line: OpenLine) -> RouteAnswer | None:
        num_attempts = 0
        while not self._is_ending:
            async with self._slots:
                body = await asyncio.to_thread(_read_body, self._input, line)
                self.num_running += 1
                try:
                    answer = await self._route(
                        self._lease.owner, self._batch.endpoint, body, new_request_id(), PRIORITY
                    )
                finally:
                    self.num_running -= 1
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
            loop.time() < until and not self._is_ending
        ):
            await asyncio.sleep(min(0.2, seconds))

    async def _fail(self, problems: list[Problem]) -> None:
        await self._publish(Status.FAILED, FAILED, problems)

    async def _publish(
        self, status: Status, reason: tuple[str, str], problems: list[Problem]
    ) -> None:
        """Writes the output files and ends the batch; has no effect once the lease is lost."""
        batch, folder = self._batch, self._jobs.folder
        drafts = Drafts(folder.batch(batch.id), batch.id, self._lease.token)
        counts, usage = self.counts, None
        if batch.status is not Status.VALIDATING and folder.batch_lines(batch.id).exists():
            counts = await asyncio.to_thread(drafts.write, self._worklist, reason)
            usage = await self._worklist.sum_usage()
        output, errors = drafts.of(counts) if usage is not None else (None, None)

        def outcome(batch: Batch) -> Batch:
            return replace(
                batch,
                counts=counts,
                usage=usage,
                problems=tuple(problems),
                output_file_id=output.file_id if output else None,
                error_file_id=errors.file_id if errors else None,
            )

        def place() -> list[StoredFile]:
            place_output, seconds = self._jobs.files.place_output, batch.output_seconds
            return [
                place_output(draft.file_id, draft.path, draft.filename, seconds)
                for draft in (output, errors)
                if draft is not None
            ]

        if await self._jobs.batches.finish(self._lease, status, outcome, place):
            logger.info("a batch has ended", extra={"batch": batch.id, "status": status.value})
            await asyncio.to_thread(folder.drop_batch, batch.id)


def _read_body(path: Path, line: OpenLine) -> bytes:
    """Returns the body of a line's request; raises FileNotFoundError if the file was removed."""
    with path.open("rb") as file:
        file.seek(line.offset)
        data = file.read(line.length)
    return dump_body(parse_line(data)["body"])
