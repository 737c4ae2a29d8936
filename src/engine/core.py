"""The engine's heart: requests in, step after step, tokens out. It runs in its caller's thread."""

import time
from dataclasses import replace
from functools import partial

from src.engine.isolation import is_containable
from src.engine.model.runner import ModelRunner
from src.engine.request import EngineUpdate, Request, RequestOutput, StepStats
from src.engine.scheduling.kv_slots import Lease
from src.engine.scheduling.scheduler import Scheduler, SchedulerOutput
from src.engine.scheduling.sequence import ScheduledSequence
from src.engine.structured_output.matcher import MAX_WAIT_SECONDS


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

    def add(self, request: Request) -> EngineUpdate:
        """Queues a request; with an output if that has failed."""
        self._scheduler.add(request)
        return self._update([])

    def abort(self, request_id: str) -> EngineUpdate:
        """Drops a request; without an output if it is not here any more."""
        output = self._scheduler.abort(request_id)
        return self._update([output] if output else [])

    def step(self) -> EngineUpdate:
        """Computes one step and returns what is new."""
        started = time.perf_counter()
        outputs = self._scheduler.expire() + self._scheduler.settle()
        if outputs:  # ends are told at once: the model takes long
            return self._update(outputs)
        work = self._scheduler.schedule()
        if not work.scheduled:  # all who waited have expired, or grammar processes are awaited
            outputs += self._scheduler.settle(MAX_WAIT_SECONDS)
        outputs += self._execute(self._prepare(work))
        seconds = time.perf_counter() - started
        num_accepted = sum(len(one.new_token_ids) - 1 for one in outputs if one.new_token_ids)
        step = StepStats(
            len(work.scheduled),
            work.num_tokens,
            seconds,
            work.num_drafted,
            num_accepted,
            work.num_preempted,
        )
        return self._update(outputs, step if work.scheduled else None)

    def _update(self, outputs: list[RequestOutput], step: StepStats | None = None) -> EngineUpdate:
        outputs = outputs + self._scheduler.take_failed()
        return EngineUpdate(outputs, self._scheduler.stats, step)

    def _prepare(self, work: SchedulerOutput) -> list[ScheduledSequence]:
        """Clears and fills slots; returns those of the scheduled whose slots hold what they should.

        Where a slot cannot be filled its sequence fails. Others that were to copy from it, or have
        it by now, are left out of this step and start anew in the next.
        """
        lost: set[int] = set()  # by index
        for sequence, lease in work.leases:
            is_filled = self._scheduler.isolate(sequence, partial(self._fill, lease, lost))
            (lost.discard if is_filled else lost.add)(lease.slot.index)
        self._scheduler.lose(lost)
        slots = [one.sequence.slot for one in work.scheduled]
        return [
            one
            for one, slot in zip(work.scheduled, slots, strict=True)
            if slot is not None and slot.index not in lost
        ]

    def _fill(self, lease: Lease, lost: set[int]) -> bool:
        """Prepares a slot; False if the prefix that it should hold is lost where it was."""
        if lease.copy_from is not None and lease.copy_from.index in lost:
            self._runner.prepare(replace(lease, copy_from=None))
            return False
        self._runner.prepare(lease)
        return True

    def _execute(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        if not scheduled:  # all who waited have expired
            return []
        try:
            results = self._runner.execute(scheduled)
        except BaseException as error:
            if not is_containable(error):
                raise
            return self._find_culprits(scheduled)
        return self._scheduler.update(scheduled, results)

    def _find_culprits(self, scheduled: list[ScheduledSequence]) -> list[RequestOutput]:
        """A step raised: its halves run alone, down to those that raise by themselves.

        Running a part again is safe: it writes the same keys and values and draws the same numbers.
        """
        if len(scheduled) == 1:
            self._scheduler.fail(scheduled[0].sequence)
            return []
        half = len(scheduled) // 2
        return self._execute(scheduled[:half]) + self._execute(scheduled[half:])
