"""Decides what each step computes. No torch.

There are no prefill and decode phases. A sequence has tokens, and keys and values for the first
`num_computed_tokens` of them; each step brings some sequences nearer to having all. One that lacks
only its last token decodes, one that lacks many prefills, in chunks if they do not fit the step's
budget of tokens. Decoding sequences come first, so a long prompt does not stall those that stream.

A sequence whose prompt begins as one that is just being computed waits for that one, and copies:
many answers to one prompt, or many questions after one system prompt, compute it once.

All work for a single sequence goes through `isolate`: an exception fails that sequence alone.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from src.engine.isolation import attempt
from src.engine.logprobs import SampledToken
from src.engine.request import Admission, EngineStats, FinishReason, Request, RequestOutput
from src.engine.scheduling.fair_queue import FairQueue
from src.engine.scheduling.fair_share import choose_turn
from src.engine.scheduling.kv_slots import Lease, SlotPool
from src.engine.scheduling.prefix_leaders import follow_leader, is_waiting
from src.engine.scheduling.prompt_lookup import DraftLimits, PromptLookup
from src.engine.scheduling.sequence import ScheduledSequence, Sequence, SequenceResult
from src.engine.scheduling.stop_conditions import find_end, find_late_end, grammar_steps
from src.engine.scheduling.token_budget import TokenBudget
from src.engine.structured_output.matcher import receive, send

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step's work. Parts of one token precede all others.

    Args:
        scheduled: what is computed.
        leases: slots that have to be cleared or filled before, in this order, for which sequence.
        num_preempted: sequences that gave their place to another tenant's.
    """

    scheduled: list[ScheduledSequence]
    leases: list[tuple[Sequence, Lease]]
    num_preempted: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(one.size for one in self.scheduled)

    @property
    def num_drafted(self) -> int:
        return sum(len(one.draft) for one in self.scheduled)


class Scheduler:
    """Holds all sequences, waiting and running.

    Args:
        slots: of the KV cache; one per running sequence.
        max_num_seqs: sequences that run together at most.
        max_num_batched_tokens: tokens that a step computes at most.
        eos_token_ids: tokens that end a sequence, if it does not ignore them.
        max_queue_seconds: how long a request waits for its turn at most.
        drafts: how many tokens are guessed.
        max_queue_size: sequences that wait at most while as many run as may.
    """

    def __init__(
        self,
        slots: SlotPool,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        eos_token_ids: list[int],
        max_queue_seconds: float = float("inf"),
        drafts: DraftLimits | None = None,
        max_queue_size: float = float("inf"),
    ) -> None:
        assert max_num_batched_tokens >= max_num_seqs
        self._slots = slots
        self.max_num_seqs = max_num_seqs
        self._budget = TokenBudget(max_num_batched_tokens)
        self._eos_token_ids = eos_token_ids
        self._max_queue_seconds = max_queue_seconds
        self._max_live = max_num_seqs + max_queue_size
        self._drafts = drafts or DraftLimits()
        self._waiting = FairQueue()
        self._running: list[Sequence] = []
        self._failed: list[RequestOutput] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            self.num_running, self.num_waiting, self._slots.num_cached, self._slots.usage
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
        sequence.token_ids = list(request.prompt_token_ids)
        self._waiting.append(sequence)

    def isolate(self, sequence: Sequence, work: Callable[[], T]) -> T | None:
        """Returns what work for one sequence returns; if it raises, the sequence alone fails."""
        return attempt(work, lambda: self.fail(sequence))

    def fail(self, sequence: Sequence) -> None:
        """Takes a sequence out because of the exception that is being handled.

        It may be anywhere, as what raised may have been half-way through moving it.
        """
        logger.exception("request failed", extra={"request": sequence.request.request_id})
        if sequence in self._running:
            self._running.remove(sequence)
        self._waiting.discard(sequence)
        if sequence.slot is not None:
            self._slots.discard(sequence.slot)
            sequence.slot = None
        if sequence.matcher is not None:
            sequence.matcher.close()
        request_id = sequence.request.request_id
        failed = RequestOutput(request_id, [], FinishReason.ERROR, admission=sequence.admission)
        self._failed.append(failed)

    def take_failed(self) -> list[RequestOutput]:
        """The last outputs of sequences that have failed since they were last taken."""
        failed, self._failed = self._failed, []
        return failed

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drops a request wherever it is; returns its last output, or None if it is not here."""
        for sequence in (*self._running, *self._waiting):
            if sequence.request.request_id == request_id:
                return self._end(sequence, FinishReason.ABORT)
        return None

    def expire(self) -> list[RequestOutput]:
        """Drops requests that have waited too long, and those for which there is no place.

        The queue's deadline counts until the first sequence of a request runs. Admission lets a
        tenant that holds little into a full queue: the newest sequence of the tenant with the most
        waiting sequences makes room.
        """
        latest = time.monotonic() - self._max_queue_seconds
        late = [one for one in self._waiting if one.expires and one.request.arrived_at < latest]
        outputs = [self._end(sequence, FinishReason.EXPIRED) for sequence in late]
        while self.num_waiting + self.num_running > self._max_live:
            if (newest := self._waiting.newest_of_most()) is None:
                break
            outputs.append(self._end(newest, FinishReason.DISPLACED))
        return [output for output in outputs if output is not None]

    def _end(self, sequence: Sequence, reason: FinishReason) -> RequestOutput | None:
        return self.isolate(sequence, lambda: self.finish(sequence, reason))

    def schedule(self) -> SchedulerOutput:
        """Chooses the next step's work, within the budget of tokens."""
        leases: list[tuple[Sequence, Lease]] = []
        for sequence in [one for one in self._running if one.leader is not None]:
            self.isolate(sequence, partial(self._leave_leader, sequence, leases))
        num_preempted = self._admit_waiting(leases)
        shares = self._budget.share(
            [one for one in self._running if one.leader is None and not one.is_left_out]
        )
        most = self._drafts.per_sequence(sum(shares.values()), len(shares))
        parts = [
            self.isolate(one, partial(self._part, one, num_tokens, most))
            for one, num_tokens in shares.items()
        ]
        scheduled = [one for one in parts if one is not None]
        scheduled.sort(key=_place_in_pack)
        return SchedulerOutput(scheduled, leases, num_preempted)

    def _part(self, sequence: Sequence, num_tokens: int, max_drafted: int) -> ScheduledSequence:
        is_last = num_tokens == sequence.num_missing  # else it goes on where it was preempted
        draft = self._draft(sequence, max_drafted) if is_last else ()
        return ScheduledSequence(sequence, num_tokens, draft)

    def _draft(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        """What may follow in a sequence that has begun to answer.

        The first token comes alone, and an embedded prompt has none. A grammar knows its place for
        one token.
        """
        num_left = sequence.request.sampling_params.max_tokens - sequence.num_generated
        limit = min(most, num_left - 1)
        if not sequence.num_generated or sequence.matcher is not None or limit < 1:
            return ()
        if sequence.lookup is None:
            sequence.lookup = PromptLookup(sequence.token_ids, self._drafts.most)
        return tuple(sequence.lookup.draft(limit))

    def _admit_waiting(self, leases: list[tuple[Sequence, Lease]]) -> int:
        """Gives sequences that wait their turns; returns how many others gave way for them."""
        num_preempted = 0
        while len(self._waiting):
            has_room = len(self._running) < self.max_num_seqs
            turn = choose_turn(self._running, self._waiting.tenants, has_room=has_room)
            if turn is None:
                break
            if turn.victim is not None:
                self.isolate(turn.victim, partial(self._preempt, turn.victim))
                num_preempted += 1
            sequence = self._waiting.pop(turn.tenant)
            self.isolate(sequence, partial(self._admit, sequence, leases))
        return num_preempted

    def _preempt(self, sequence: Sequence) -> None:
        """Takes a sequence's place; its slot stays as a prefix to be used again, until needed."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        self._slots.release(sequence.slot)
        sequence.give_way()
        self._waiting.put_back(sequence)

    def _admit(self, sequence: Sequence, leases: list[tuple[Sequence, Lease]]) -> None:
        """Gives a sequence a slot."""
        reuses = not sequence.needs_every_position
        lease = self._slots.acquire(sequence.token_ids, sequence.request.tenant, reuse=reuses)
        sequence.slot = lease.slot
        if lease.needs_work:
            leases.append((sequence, lease))
        if not sequence.num_preemptions:
            sequence.admission = Admission(time.monotonic() - sequence.request.arrived_at)
        sequence.set_cached(lease.num_cached)
        if reuses:
            follow_leader(sequence, self._running)
        if sequence.matcher is not None:
            sequence.matcher.begin()
        self._running.append(sequence)
        if sequence.expires:
            self._waiting.stop_deadline(sequence)

    def _leave_leader(self, sequence: Sequence, leases: list[tuple[Sequence, Lease]]) -> None:
        """Lets a sequence go on if its leader has the prefix now, or is no longer there."""
        if is_waiting(sequence, self._running):
            return
        sequence.leader = None
        assert sequence.slot is not None
        lease = self._slots.extend(sequence.slot)
        if lease is not None:
            leases.append((sequence, lease))
            sequence.set_cached(lease.num_cached)

    def lose(self, slots: set[int]) -> None:
        """Takes note that nothing in these slots can be used; their owners start anew.

        Args:
            slots: by index.
        """
        self._slots.lose(slots)
        for sequence in self._running:
            if sequence.slot is not None and sequence.slot.index in slots:
                sequence.set_cached(0)

    def update(
        self, scheduled: list[ScheduledSequence], results: list[SequenceResult]
    ) -> list[RequestOutput]:
        """Records work that was done: one result for each that was scheduled."""
        send(grammar_steps(scheduled, results))
        outputs = [
            self.isolate(one.sequence, partial(self._record, one, result))
            for one, result in zip(scheduled, results, strict=True)
        ]
        return [output for output in outputs if output is not None]

    def _record(self, one: ScheduledSequence, result: SequenceResult) -> RequestOutput | None:
        sequence, slot = one.sequence, one.sequence.slot
        assert slot is not None
        is_late = one.samples and not result.tokens  # then the last token is computed again
        num_computed = one.num_tokens - is_late
        sequence.num_computed_tokens += num_computed
        if not sequence.num_generated:
            sequence.num_own_tokens += num_computed
        sequence.prompt_logprobs += result.prompt_logprobs
        if one.draft:
            assert sequence.lookup is not None
            sequence.lookup.learn(len(one.draft), len(result.tokens) - 1)
        output = None
        if sequence.request.embeds:
            sequence.add_hidden_sum(result.hidden_sum)
            output = None if sequence.num_missing else self._embedded(sequence)
        elif result.tokens:
            output = self._output(sequence, result.tokens)
            # The last of them was drawn and not computed, the others were both.
            sequence.num_computed_tokens += max(0, len(output.new_token_ids) - 1)
        slot.num_valid = sequence.num_computed_tokens
        return output

    def settle(self, timeout: float = 0) -> list[RequestOutput]:
        """Takes late answers of grammar processes; ends sequences that these complete or fail.

        Args:
            timeout: seconds to wait for an answer, if there is one to come.
        """
        live = [*self._running, *self._waiting]
        receive([one.matcher for one in live if one.matcher is not None], timeout)
        outputs = [self.isolate(one, partial(self._settle, one)) for one in live]
        return [output for output in outputs if output is not None]

    def _settle(self, sequence: Sequence) -> RequestOutput | None:
        reason = find_late_end(sequence)
        return None if reason is None else self.finish(sequence, reason)

    def _embedded(self, sequence: Sequence) -> RequestOutput:
        """The one output of a sequence whose prompt is embedded."""
        output = self.finish(sequence, FinishReason.EMBEDDED)
        return replace(output, embedding=sequence.embedding)

    def _output(self, sequence: Sequence, tokens: list[SampledToken]) -> RequestOutput:
        """What its newest tokens mean for a sequence; there are none after the one that ends it."""
        reason = None
        kept: list[SampledToken] = []
        for token in tokens:
            sequence.token_ids.append(token.token_id)
            kept.append(token)
            reason = find_end(sequence, token.token_id)
            if reason is not None:
                self.finish(sequence, reason)
                break
        output = RequestOutput(
            sequence.request.request_id,
            [token.token_id for token in kept],
            reason,
            [token.logprobs for token in kept if token.logprobs],
            sequence.prompt_logprobs,
            sequence.admission,
        )
        sequence.prompt_logprobs, sequence.admission = [], None
        return output

    def finish(self, sequence: Sequence, reason: FinishReason) -> RequestOutput:
        """Takes a sequence out and frees its slot."""
        if sequence.matcher is not None:
            sequence.matcher.close()
        if sequence.slot is None:
            self._waiting.discard(sequence)
        else:
            self._running.remove(sequence)
            self._slots.release(sequence.slot)
            sequence.slot = None
        return RequestOutput(sequence.request.request_id, [], reason, admission=sequence.admission)


def _place_in_pack(one: ScheduledSequence) -> tuple[bool, int]:
    """Decodes first; slots that lie side by side in the cache do so in the pack."""
    assert one.sequence.slot is not None
    return one.size > 1, one.sequence.slot.index
