"""The default runner: works on batches in the background of a server's process.

Several processes may share a folder; each batch has one runner at a time (`batches.py`).
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress

from src.errors import ServiceError
from src.jobs.access import Jobs
from src.jobs.answers import Observer, Route
from src.jobs.batch_run import BatchRun, RunOptions
from src.jobs.batches import Lease

logger = logging.getLogger(__name__)

MAX_BATCHES = 8
"""Batches of one process that run at the same time, so that a large one blocks no other."""

POLL_SECONDS = 1.0
"""Pause between looks for batches of other processes."""

SWEEP_SECONDS = 60.0


class Runner:
    """Runs batches until the process shuts down.

    Args:
        jobs: stores of files and batches.
        route: answers lines.
        options: bounds.
        served_model: first name of the served model; batches of other models are left alone.
        observer: gets figures once a second, and counts lines.
    """

    def __init__(
        self,
        jobs: Jobs,
        route: Route,
        options: RunOptions,
        served_model: str,
        observer: Observer,
    ) -> None:
        self._jobs, self._route, self._options = jobs, route, options
        self._served_model, self._observer = served_model, observer
        self._slots = asyncio.Semaphore(options.concurrency)
        self._runs: dict[asyncio.Task[None], BatchRun] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Looks for new batches at once."""
        self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled, or until all runs have ended in a shutdown."""
        next_sweep = 0.0
        clock = asyncio.get_running_loop().time
        try:
            await self._guard(self._jobs.batches.tidy())
            while not self._options.is_stopping():
                if clock() >= next_sweep:
                    await self._guard(self._jobs.files.sweep())
                    next_sweep = clock() + SWEEP_SECONDS
                self._wake.clear()
                await self._guard(self._look())
                await self._pause()
            await asyncio.gather(*self._runs, return_exceptions=True)
        finally:
            for task in self._runs:
                task.cancel()
            await asyncio.gather(*self._runs, return_exceptions=True)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Awaits `work`; an error of the disk is logged, and it is tried again later."""
        try:
            await work
        except ServiceError as error:
            logger.error("batches wait: %s", error, exc_info=error.__cause__)
        except OSError:
            logger.exception("batches wait")

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    async def _look(self) -> None:
        """Starts work on batches without a runner."""
        while len(self._runs) < MAX_BATCHES:
            lease = await self._jobs.batches.claim(self._served_model)
            if lease is None:
                break
            self._start(lease)
        await self._measure()

    async def _measure(self) -> None:
        backlog = await self._jobs.batches.measure()
        oldest = backlog.oldest_created_at
        self._observer.backlog_measured(
            backlog.num_batches,
            backlog.num_lines,
            sum(run.num_running for run in self._runs.values()),
            0 if oldest is None else max(0, self._jobs.clock.now() - oldest),
        )

    def _start(self, lease: Lease) -> None:
        logger.info(
            "a batch runs", extra={"batch": lease.batch.id, "status": lease.batch.status.value}
        )
        run = BatchRun(lease, self._jobs, self._route, self._options, self._slots, self._observer)
        task = asyncio.create_task(run.run())
        self._runs[task] = run
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._runs[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a batch's run failed; it is tried again", exc_info=error)
