"""The engine's heart: requests in, step after step, tokens out. It runs in its caller's thread."""

import logging
import time

from src.engine.model_runner import ModelRunner
from src.engine.request import (
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
    StepStats,
)
from src.engine.scheduler import Scheduler
from src.engine.sequence import ScheduledSequence
from src.engine.structured_output.matcher import MAX_WAIT_SECONDS

logger = logging.getLogger(__name__)


class EngineCore:
    """Batches requests continuously: each step serves whoever is there.

    Args:
        runner: runs the model.
        scheduler: decides what each step computes.
    """

    def __init__(self, runner: ModelRunner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler

    @property
    def has_work(self) -> bool:
        return bool(self._scheduler.num_running or self._scheduler.num_waiting)

    @property
    def max_num_seqs(self) -> int:
        return self._scheduler.max_num_seqs

    def add(self, request: Request) -> None:
        """Queues a request."""
        self._scheduler.add(request)

    def abort(self, request_id: str) -> EngineUpdate:
        """Drops a request; without an output if it is not here any more."""
        output = self._scheduler.abort(request_id)
        return EngineUpdate([output] if output else [], self._scheduler.stats)

    def step(self) -> EngineUpdate:
        """Computes one step and returns what is new."""
        started = time.perf_counter()
        outputs = self._scheduler.expire() + self._scheduler.settle()
        work = self._scheduler.schedule()
        if not work.scheduled:  # all who waited have expired, or grammar processes are awaited
            outputs += self._scheduler.settle(MAX_WAIT_SECONDS)
        self._runner.copy_prefixes(work.copies)
        outputs += self._execute(work.scheduled)
        seconds = time.perf_counter() - started
        num_accepted = sum(len(one.new_token_ids) - 1 for one in outputs if one.new_token_ids)
        step = StepStats(
            len(work.scheduled), work.num_tokens, seconds, work.num_drafted, num_accepted
        )
        return EngineUpdate(outputs, self._scheduler.stats, step if work.scheduled else None)

    def _execute(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        if not scheduled:  # all who waited have expired
            return []
        try:
            results = self._runner.execute(scheduled)
        except Exception:  # noqa: BLE001 - logged when it is known whose it is
            return self._find_culprits(scheduled)
        return self._scheduler.update(scheduled, results)

    def _find_culprits(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        """A step raised: its halves run alone, down to those that raise by themselves.

        Running a part again is safe: it writes the same keys and values and draws the same numbers.
        """
        if len(scheduled) == 1:
            sequence = scheduled[0].sequence
            logger.exception("request failed", extra={"request": sequence.request.request_id})
            assert sequence.slot is not None
            self._runner.clear(sequence.slot)
            return [self._scheduler.finish(sequence, FinishReason.ERROR)]
        half = len(scheduled) // 2
        return self._execute(scheduled[:half]) + self._execute(scheduled[half:])
