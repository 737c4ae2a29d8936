"""Decides what each step computes. No torch.

There are no prefill and decode phases. A sequence has tokens, and keys and values for the first
`num_computed_tokens` of them; each step brings some sequences nearer to having all. A sequence that
lacks only its last token decodes. One that lacks more prefills, in chunks if they exceed the step's
token budget (chunked prefill, as in vLLM; Agrawal et al. 2023, arXiv:2308.16369).

All work for a single sequence goes through `isolate`: an exception fails that sequence alone.
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from src.engine.isolation import attempt, log_failure
from src.engine.request import Admission, EngineStats, FinishReason, Request, RequestOutput
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.kv_cache_manager import KVCacheManager
from src.engine.scheduling.preemption import (
    choose_placement,
    choose_victim,
    choose_victim_of_growth,
)
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import (
    ScheduledSequence,
    SchedulerOutput,
    SequenceResult,
    grammar_tokens,
    record,
)
from src.engine.scheduling.stop_conditions import find_late_end
from src.engine.scheduling.token_budget import TokenBudget
from src.engine.scheduling.waiting_queue import Recess, WaitingQueue
from src.engine.structured_output.matcher import (
    END_WAIT_SECONDS,
    receive,
    send,
    wait_for_answers,
)

T = TypeVar("T")


class Scheduler:
    """Holds all sequences, waiting and running.

    Args:
        pool: blocks of the KV cache; any request fits it alone.
        max_num_seqs: maximum number of running sequences.
        max_num_batched_tokens: maximum number of tokens in a step.
        eos_token_ids: tokens that end a sequence, if it does not ignore them.
        max_queue_seconds: longest wait of a request for its first place.
        drafts: limits of speculative decoding.
        max_queue_size: maximum number of waiting sequences while all places are taken.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        eos_token_ids: list[int],
        max_queue_seconds: float = float("inf"),
        drafts: DraftLimits | None = None,
        max_queue_size: float = float("inf"),
    ) -> None:
        assert max_num_batched_tokens >= max_num_seqs
        self._cache = KVCacheManager(pool)
        self.max_num_seqs = max_num_seqs
        self._budget = TokenBudget(max_num_batched_tokens)
        self._eos_token_ids = eos_token_ids
        self._max_queue_seconds = max_queue_seconds
        self._max_live = max_num_seqs + max_queue_size
        self._drafts = drafts or DraftLimits()
        self._waiting = WaitingQueue()
        self._recess = Recess()
        self._running: list[Sequence] = []
        self._failed: list[RequestOutput] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_cache_tokens(self) -> int:
        return self._cache.num_tokens

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            self.num_running, self.num_waiting, self._cache.num_cached_tokens, self._cache.usage
        )

    def add(self, request: Request) -> None:
        """Puts a request into the queue."""
        sequence = Sequence(request)
        self.isolate(sequence, lambda: self._add(sequence))

    def _add(self, sequence: Sequence) -> None:
        request, params = sequence.request, sequence.request.sampling_params
        sequence.seed = secrets.randbits(63) if params.seed is None else params.seed
        sequence.end_token_ids = end_token_ids = params.end_token_ids(self._eos_token_ids)
        sequence.matcher = request.grammar.start(end_token_ids) if request.grammar else None
        sequence.thought = request.thought.start() if request.thought else None
        sequence.token_ids = list(request.prompt_token_ids)
        sequence.waits_since = request.arrived_at
        self._cache.prepare(sequence)
        self._waiting.append(sequence)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drops a request wherever it is; returns its last output, or None if it is not here."""
        for sequence in (*self._running, *self._waiting):
            if sequence.request.request_id == request_id:
                return self._end(sequence, FinishReason.ABORT)
        return None

    def expire(self) -> list[RequestOutput]:
        """Drops sequences that have waited too long, then those beyond the queue's size.

        The deadline holds until the first sequence of a request runs. It does not count the time
        in which a running sequence computes a prefix for this one. Admission lets a tenant below
        its share into a full queue; the newest sequence of the tenant with the highest weighted
        load makes room.
        """
        now = time.monotonic()
        for one in self._waiting:
            if self._cache.is_computing_for(one):
                one.waits_since = now
        self._waiting.age(now)
        latest = now - self._max_queue_seconds
        late = [one for one in self._waiting if one.expires and one.waits_since < latest]
        outputs = [self._end(sequence, FinishReason.EXPIRED) for sequence in late]
        while self.num_waiting + self.num_running > self._max_live:
            if (newest := self._waiting.newest_of_heaviest()) is None:
                break
            outputs.append(self._end(newest, FinishReason.DISPLACED))
        return [output for output in outputs if output is not None]

    def schedule(self) -> SchedulerOutput:
        """Plans the next step, within the token budget."""
        num_preempted = self._grow_running() + self._admit_waiting()
        ready = [one for one in self._running if not one.awaits_grammar]
        shares = self._budget.share(self._recess.present(ready))
        max_drafted = self._drafts.per_sequence(sum(shares.values()), len(shares))
        parts = [
            self.isolate(one, partial(self._part, one, num_tokens, max_drafted))
            for one, num_tokens in shares.items()
        ]
        scheduled = sorted((one for one in parts if one is not None), key=_position_in_pack)
        return SchedulerOutput(scheduled, self._cache.take_dirty(), num_preempted)

    def _part(self, sequence: Sequence, num_tokens: int, max_drafted: int) -> ScheduledSequence:
        # A sequence that continues after a preemption has generated tokens, and prefills them.
        is_last = num_tokens == sequence.num_missing
        draft = sequence.draft(max_drafted, self._drafts.max_draft_tokens) if is_last else ()
        if draft and not self._cache.grow(sequence, len(draft)):
            draft = ()
        return ScheduledSequence(sequence, num_tokens, draft)

    def _grow_running(self) -> int:
        """Gives running sequences blocks for new tokens, if need be those of others.

        Returns:
            The number of preempted sequences.
        """
        num_preempted = 0
        for sequence in list(self._running):
            grow = partial(self._cache.grow, sequence)
            while sequence.is_running and not self.isolate(sequence, grow):
                if sequence.is_running:
                    self._preempt(choose_victim_of_growth(self._running))
                    num_preempted += 1
        return num_preempted

    def _admit_waiting(self) -> int:
        """Gives waiting sequences places; returns the number of sequences preempted for them."""
        num_preempted = 0
        while tenants := self._waiting.tenants(self._cache.is_ready):
            has_room = len(self._running) < self.max_num_seqs
            placement = choose_placement(self._running, tenants, has_room=has_room)
            if placement is None:
                break
            sequence = self._waiting.first(placement.tenant, self._cache.is_ready)
            victim = placement.victim
            while victim is not None or not self._cache.fits(sequence, len(self._running)):
                victim = victim or choose_victim(
                    self._running, sequence, self._cache.num_blocks(sequence)
                )
                if victim is None:
                    return num_preempted
                self._preempt(victim)
                num_preempted, victim = num_preempted + 1, None
            self._waiting.pop(sequence)
            self.isolate(sequence, partial(self._admit, sequence))
        return num_preempted

    def _preempt(self, sequence: Sequence) -> None:
        self.isolate(sequence, partial(self._give_back, sequence))

    def _give_back(self, sequence: Sequence) -> None:
        """Puts a running sequence back into the queue; its prefix stays cached for a while."""
        self._running.remove(sequence)
        self._cache.free(sequence)
        sequence.preempt()
        self._cache.prepare(sequence)
        self._waiting.put_back(sequence)

    def _admit(self, sequence: Sequence) -> None:
        if not sequence.num_preemptions:
            sequence.admission = Admission(time.monotonic() - sequence.request.arrived_at)
        self._cache.allocate(sequence)
        if sequence.matcher is not None:
            sequence.matcher.begin()
        self._running.append(sequence)
        if sequence.expires:
            self._waiting.stop_deadline(sequence)

    def update(
        self, scheduled: list[ScheduledSequence], results: list[SequenceResult]
    ) -> list[RequestOutput]:
        """Records a step: one result for each scheduled sequence."""
        send(grammar_tokens(scheduled, results))
        outputs = [
            self.isolate(one.sequence, partial(self._record, one, result))
            for one, result in zip(scheduled, results, strict=True)
        ]
        sequences = [one.sequence for one in scheduled]
        full = [one.matcher for one in sequences if one.matcher is not None and one.is_full]
        wait_for_answers(full, END_WAIT_SECONDS)
        return [output for output in outputs if output is not None]

    def _record(self, one: ScheduledSequence, result: SequenceResult) -> RequestOutput | None:
        output = record(one, result)
        self._cache.register(one.sequence)
        if output is not None and output.finish_reason is not None:
            self._remove(one.sequence)
        return output

    def settle(self, timeout: float = 0) -> list[RequestOutput]:
        """Takes late answers of grammar processes; ends sequences that these complete or fail.

        Args:
            timeout: seconds to wait for an answer, if one is due.
        """
        live = [*self._running, *self._waiting]
        receive([one.matcher for one in live if one.matcher is not None], timeout)
        outputs = [self.isolate(one, partial(self._settle, one)) for one in live]
        return [output for output in outputs if output is not None]

    def _settle(self, sequence: Sequence) -> RequestOutput | None:
        reason = find_late_end(sequence)
        return None if reason is None else self.finish(sequence, reason)

    def finish(self, sequence: Sequence, reason: FinishReason) -> RequestOutput:
        """Ends a sequence and frees its blocks; returns its last output."""
        self._remove(sequence)
        return RequestOutput(sequence.request.request_id, [], reason, admission=sequence.admission)

    def _end(self, sequence: Sequence, reason: FinishReason) -> RequestOutput | None:
        return self.isolate(sequence, lambda: self.finish(sequence, reason))

    def _remove(self, sequence: Sequence) -> None:
        if sequence.matcher is not None:
            sequence.matcher.close()
        if sequence.is_running:
            self._running.remove(sequence)
            self._cache.free(sequence)
        else:
            self._waiting.discard(sequence)

    def isolate(self, sequence: Sequence, work: Callable[[], T]) -> T | None:
        """Returns the result of work for one sequence; if it raises, that sequence fails."""
        return attempt(work, lambda: self.fail(sequence))

    def fail(self, sequence: Sequence) -> None:
        """Ends a sequence because of the exception that is being handled.

        The exception may have interrupted a move, so the sequence may be in several places.
        """
        reason = log_failure(sequence.request)
        if sequence in self._running:
            self._running.remove(sequence)
        self._waiting.discard(sequence)
        self._cache.discard(sequence)
        if sequence.matcher is not None:
            sequence.matcher.close()
        request_id = sequence.request.request_id
        failed = RequestOutput(request_id, [], reason, admission=sequence.admission)
        self._failed.append(failed)

    def take_failed(self) -> list[RequestOutput]:
        """Returns the last outputs of sequences that failed since the previous call."""
        failed, self._failed = self._failed, []
        return failed


def _position_in_pack(one: ScheduledSequence) -> tuple[bool, int]:
    """Sorts decodes first, then by length, so that neighbours can share a batch of attention."""
    return one.size > 1, one.sequence.num_computed_tokens
