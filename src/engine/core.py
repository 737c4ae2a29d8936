"""`EngineCore`: continuous batching (Yu et al. 2022, "Orca"), one step a call."""

import time
from functools import partial

from src.engine.isolation import is_containable
from src.engine.model.runner import ModelRunner
from src.engine.request import EngineUpdate, Request, RequestOutput, StepStats
from src.engine.scheduling.scheduler import Scheduler
from src.engine.scheduling.step import ScheduledSequence, SchedulerOutput
from src.engine.structured_output.matcher import MAX_WAIT_SECONDS


class EngineCore:
    """Joins scheduler and model: each step computes tokens of all running sequences.

    Args:
        runner: runs the model.
        scheduler: plans each step.
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

    @property
    def num_cache_tokens(self) -> int:
        return self._scheduler.num_cache_tokens

    def add(self, request: Request) -> EngineUpdate:
        """Queues a request; the update has an output only if that failed."""
        self._scheduler.add(request)
        return self._update([])

    def abort(self, request_id: str) -> EngineUpdate:
        """Drops a request; the update has no output if it is not here."""
        output = self._scheduler.abort(request_id)
        return self._update([output] if output else [])

    def step(self) -> EngineUpdate:
        """Computes one step and returns its outputs."""
        started_at = time.perf_counter()
        outputs = self._scheduler.expire() + self._scheduler.settle()
        if outputs:  # ends are told at once: the model takes long
            return self._update(outputs)
        work = self._scheduler.schedule()
        if not work.scheduled:  # all expired, or all wait for grammar processes
            outputs += self._scheduler.settle(MAX_WAIT_SECONDS)
        outputs += self._execute(self._prepare(work))
        step = _stats(work, outputs, time.perf_counter() - started_at)
        return self._update(outputs, step if work.scheduled else None)

    def _update(self, outputs: list[RequestOutput], step: StepStats | None = None) -> EngineUpdate:
        outputs = outputs + self._scheduler.take_failed()
        return EngineUpdate(outputs, self._scheduler.stats, step)

    def _prepare(self, work: SchedulerOutput) -> list[ScheduledSequence]:
        """Clears blocks; returns the scheduled sequences without those for which that failed."""
        for sequence, blocks in work.dirty:
            self._scheduler.isolate(sequence, partial(self._runner.clear, blocks))
        return [one for one in work.scheduled if one.sequence.is_running]

    def _execute(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        if not scheduled:
            return []
        try:
            results = self._runner.execute(scheduled)
        except BaseException as error:
            if not is_containable(error):
                raise
            return self._bisect(scheduled)
        return self._scheduler.update(scheduled, results)

    def _bisect(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        """Runs the halves of a step that raised, down to the sequences that raise alone.

        Repeating a part is safe: it writes the same keys and values and draws the same numbers.
        """
        if len(scheduled) == 1:
            self._scheduler.fail(scheduled[0].sequence)
            return []
        half = len(scheduled) // 2
        return self._execute(scheduled[:half]) + self._execute(scheduled[half:])


def _stats(work: SchedulerOutput, outputs: list[RequestOutput], seconds: float) -> StepStats:
    return StepStats(
        num_sequences=len(work.scheduled),
        num_tokens=work.num_tokens,
        seconds=seconds,
        num_drafted=work.num_drafted,
        num_accepted=sum(len(one.new_token_ids) - 1 for one in outputs if one.new_token_ids),
        num_preempted=work.num_preempted,
    )
