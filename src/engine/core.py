"""The engine's heart: requests in, step after step, tokens out. It runs in its caller's thread."""

import logging

from src.engine.model_runner import ModelRunner
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.scheduler import ScheduledSequence, Scheduler

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

    def add(self, request: Request) -> None:
        """Queues a request."""
        self._scheduler.add(request)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drops a request; returns its last output, or None if it is not here any more."""
        return self._scheduler.abort(request_id)

    def step(self) -> list[RequestOutput]:
        """Computes one step and returns what is new."""
        output = self._scheduler.schedule()
        self._runner.copy_prefixes(output.copies)
        return self._execute(output.scheduled)

    def _execute(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        try:
            token_ids = self._runner.execute(scheduled)
        except Exception:  # noqa: BLE001 - logged when it is known whose it is
            return self._find_culprits(scheduled)
        return self._scheduler.update(scheduled, token_ids)

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
