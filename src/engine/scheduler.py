"""Decides what each step computes. No torch.

There are no prefill and decode phases. A sequence has tokens, and keys and values for the first
`num_computed_tokens` of them; each step brings some sequences nearer to having all. One that lacks
only its last token decodes, one that lacks many prefills, in chunks if they do not fit the step's
budget of tokens. Decoding sequences come first, so a long prompt does not stall those that stream.
"""

import secrets
from collections import deque
from dataclasses import dataclass, field

from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.slots import Lease, Slot, SlotPool


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way.

    Args:
        request: what was asked for.
        token_ids: prompt and generated tokens.
        num_computed_tokens: of them whose keys and values are in the slot.
        slot: None while it waits.
        seed: the request's, or one drawn for it.
    """

    request: Request
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    slot: Slot | None = None
    seed: int = 0

    @property
    def num_missing(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_token_ids)


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence's part in a step: compute its next `num_tokens`, and sample if it then has all."""

    sequence: Sequence
    num_tokens: int

    @property
    def samples(self) -> bool:
        return self.num_tokens == self.sequence.num_missing


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step's work. Copies of prefixes come first; decoding sequences precede all others."""

    scheduled: list[ScheduledSequence]
    copies: list[Lease]


class Scheduler:
    """Holds all sequences, waiting and running.

    Args:
        slots: of the KV cache; one per running sequence.
        max_num_seqs: sequences that run together at most.
        max_num_batched_tokens: tokens that a step computes at most.
        eos_token_ids: tokens that end a sequence.
    """

    def __init__(
        self,
        slots: SlotPool,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        eos_token_ids: list[int],
    ) -> None:
        assert max_num_batched_tokens >= max_num_seqs
        self._slots = slots
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._eos_token_ids = frozenset(eos_token_ids)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        seed = request.sampling_params.seed
        if seed is None:
            seed = secrets.randbits(63)
        self._waiting.append(Sequence(request, list(request.prompt_token_ids), seed=seed))

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drops a request wherever it is; returns its last output, or None if it is not here."""
        for sequence in (*self._running, *self._waiting):
            if sequence.request.request_id == request_id:
                return self.finish(sequence, FinishReason.ABORT)
        return None

    def schedule(self) -> SchedulerOutput:
        """Chooses the next step's work, within the budget of tokens."""
        budget = self._max_num_batched_tokens
        scheduled: list[ScheduledSequence] = []
        for sequence in sorted(self._running, key=_is_prefilling):  # stable: decodes, then in order
            num_tokens = min(sequence.num_missing, budget)
            if num_tokens:
                scheduled.append(ScheduledSequence(sequence, num_tokens))
                budget -= num_tokens
        copies: list[Lease] = []
        while budget and self._waiting and len(self._running) < self._max_num_seqs:
            sequence = self._admit(copies)
            num_tokens = min(sequence.num_missing, budget)
            scheduled.append(ScheduledSequence(sequence, num_tokens))
            budget -= num_tokens
        scheduled.sort(key=lambda one: one.num_tokens > 1)
        return SchedulerOutput(scheduled, copies)

    def _admit(self, copies: list[Lease]) -> Sequence:
        sequence = self._waiting.popleft()
        lease = self._slots.acquire(sequence.token_ids)
        if lease.copy_from is not None:
            copies.append(lease)
        sequence.slot, sequence.num_computed_tokens = lease.slot, lease.num_cached
        self._running.append(sequence)
        return sequence

    def update(
        self, scheduled: list[ScheduledSequence], token_ids: list[int]
    ) -> list[RequestOutput]:
        """Records work that was done.

        Args:
            scheduled: what was computed.
            token_ids: one for each sequence that sampled, in the order of `scheduled`.
        """
        outputs: list[RequestOutput] = []
        sampled = iter(token_ids)
        for one in scheduled:
            sequence, samples = one.sequence, one.samples
            assert sequence.slot is not None
            sequence.num_computed_tokens += one.num_tokens
            sequence.slot.num_valid = sequence.num_computed_tokens
            if samples:
                outputs.append(self._append(sequence, next(sampled)))
        return outputs

    def _append(self, sequence: Sequence, token_id: int) -> RequestOutput:
        sequence.token_ids.append(token_id)
        reason = None
        if token_id in self._eos_token_ids:
            reason = FinishReason.STOP
        elif sequence.num_generated == sequence.request.sampling_params.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            self.finish(sequence, reason)
        return RequestOutput(sequence.request.request_id, [token_id], reason)

    def finish(self, sequence: Sequence, reason: FinishReason) -> RequestOutput:
        """Takes a sequence out and frees its slot."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._slots.release(sequence.slot)
        return RequestOutput(sequence.request.request_id, [], reason)


def _is_prefilling(sequence: Sequence) -> bool:
    return sequence.num_missing > 1
