"""Decides what each step computes. No torch.

There are no prefill and decode phases. A sequence has tokens, and keys and values for the first
`num_computed_tokens` of them; each step brings some sequences nearer to having all. One that lacks
only its last token decodes, one that lacks many prefills, in chunks if they do not fit the step's
budget of tokens. Decoding sequences come first, so a long prompt does not stall those that stream.

A sequence whose prompt begins as one that is just being computed waits for that one, and copies:
many answers to one prompt, or many questions after one system prompt, compute it once.
"""

import logging
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from src.engine.drafts import DraftLimits, PromptLookup
from src.engine.request import Admission, EngineStats, FinishReason, Request, RequestOutput
from src.engine.sequence import ScheduledSequence, Sequence, SequenceResult
from src.engine.slots import Lease, SlotPool, common_length
from src.engine.structured_output.matcher import advance, receive
from src.engine.structured_output.source import DeadEndError
from src.engine.waiting import WaitingQueue

if TYPE_CHECKING:
    from src.engine.sampler import SampledToken
    from src.engine.structured_output.matcher import Matcher

logger = logging.getLogger(__name__)

MIN_SHARED_TOKENS = 16
"""A shorter prefix is computed sooner than waited for."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step's work. Copies of prefixes come first; parts of one token precede all others."""

    scheduled: list[ScheduledSequence]
    copies: list[Lease]

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
        self._max_num_batched_tokens = max_num_batched_tokens
        self._eos_token_ids = eos_token_ids
        self._max_queue_seconds = max_queue_seconds
        self._max_live = max_num_seqs + max_queue_size
        self._drafts = drafts or DraftLimits()
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []
        self._favours_short = False  # whether the last step left a long prompt out
        self._streams_waited = False  # whether the last step that did so left decodes out too

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
        params = request.sampling_params
        seed = secrets.randbits(63) if params.seed is None else params.seed
        end_token_ids = params.end_token_ids(self._eos_token_ids)
        matcher = request.grammar.start(end_token_ids) if request.grammar else None
        token_ids = list(request.prompt_token_ids)
        self._waiting.append(Sequence(request, end_token_ids, seed, matcher, token_ids))

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drops a request wherever it is; returns its last output, or None if it is not here."""
        for sequence in (*self._running, *self._waiting):
            if sequence.request.request_id == request_id:
                return self.finish(sequence, FinishReason.ABORT)
        return None

    def expire(self) -> list[RequestOutput]:
        """Drops requests that have waited too long, and those for which there is no place.

        The intake lets a tenant that holds little into a queue that is full: who waits with most
        makes room.
        """
        latest = time.monotonic() - self._max_queue_seconds
        expired = [one for one in self._waiting if one.request.arrived_at < latest]
        outputs = [self.finish(sequence, FinishReason.EXPIRED) for sequence in expired]
        while self.num_waiting + self.num_running > self._max_live:
            outputs.append(self.finish(self._waiting.newest_of_most(), FinishReason.DISPLACED))
        return outputs

    def schedule(self) -> SchedulerOutput:
        """Chooses the next step's work, within the budget of tokens."""
        copies = self._copy_from_leaders()
        while len(self._waiting) and len(self._running) < self.max_num_seqs:
            self._admit(copies)
        shares = self._share_budget(
            [one for one in self._running if one.leader is None and not one.is_awaited]
        )
        most = self._drafts.per_sequence(sum(shares.values()), len(shares))
        scheduled = [
            ScheduledSequence(one, num_tokens, self._draft(one, most))
            for one, num_tokens in shares.items()
        ]
        scheduled.sort(key=_place_in_pack)
        return SchedulerOutput(scheduled, copies)

    def _share_budget(self, sequences: list[Sequence]) -> dict[Sequence, int]:
        """How many tokens each computes: decodes first, and of the rest half for the oldest.

        The other half goes to those that lack least. So a short prompt has its first token soon
        though a long one is being computed, and however many short ones come the long one goes on.
        Every other step may leave the long one out, which makes it a short step for who comes new,
        and every other one of these the decodes, which makes it as short as if nobody else were
        there.
        """
        shares = {one: 1 for one in sequences if not one.is_prefilling}
        budget = self._max_num_batched_tokens - len(shares)
        prefills = [one for one in sequences if one.is_prefilling]
        self._streams_waited = bool(prefills) and self._streams_waited
        short = sorted(prefills, key=lambda one: one.num_missing)
        self._favours_short = bool(
            not self._favours_short
            and prefills
            and short[0].num_missing <= budget < prefills[0].num_missing
        )
        if self._favours_short:
            short = [one for one in short if one.num_missing <= budget]
            self._streams_waited = not self._streams_waited
            if self._streams_waited:
                shares = {}
        elif budget and prefills:
            shares[prefills[0]] = min(prefills[0].num_missing, -(-budget // 2))
            budget -= shares[prefills[0]]
        for one in short:
            more = min(one.num_missing - shares.get(one, 0), budget)
            if more:
                shares[one] = shares.get(one, 0) + more
                budget -= more
        return shares

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

    def _admit(self, copies: list[Lease]) -> None:
        """Gives the one whose turn it is a slot."""
        sequence = self._waiting.pop()
        reuses = not sequence.request.needs_every_position
        lease = self._slots.acquire(sequence.token_ids, sequence.request.tenant, reuse=reuses)
        if lease.copy_from is not None:
            copies.append(lease)
        sequence.slot, sequence.num_computed_tokens = lease.slot, lease.num_cached
        if reuses:
            self._find_leader(sequence)
        if sequence.matcher is not None:
            sequence.matcher.begin()
        self._running.append(sequence)
        waited = time.monotonic() - sequence.request.arrived_at
        sequence.admission = Admission(waited, lease.num_cached)

    def _find_leader(self, sequence: Sequence) -> None:
        """Makes the sequence wait for one that computes a longer prefix of it than is held yet."""
        limit = len(sequence.token_ids) - 1
        longest = sequence.num_computed_tokens + MIN_SHARED_TOKENS - 1
        for other in self._running:
            is_own = other.request.tenant == sequence.request.tenant
            if is_own and other.is_prefilling and other.num_computed_tokens < limit:
                common = common_length(other.token_ids, sequence.token_ids, limit)
                if common > max(longest, other.num_computed_tokens):
                    longest = common
                    sequence.leader, sequence.num_shared_tokens = other, common

    def _copy_from_leaders(self) -> list[Lease]:
        """Lets go on who waited for a leader that has the prefix now, or is no longer there."""
        copies: list[Lease] = []
        for sequence in self._running:
            leader = sequence.leader
            if leader is None or (
                leader in self._running and leader.num_computed_tokens < sequence.num_shared_tokens
            ):
                continue
            sequence.leader = None
            assert sequence.slot is not None
            lease = self._slots.extend(sequence.slot)
            if lease is not None:
                copies.append(lease)
                assert sequence.admission is not None
                sequence.num_computed_tokens = lease.num_cached
                sequence.admission = replace(sequence.admission, num_cached_tokens=lease.num_cached)
        return copies

    def update(
        self, scheduled: list[ScheduledSequence], results: list[SequenceResult]
    ) -> list[RequestOutput]:
        """Records work that was done: one result for each that was scheduled."""
        outputs: list[RequestOutput] = []
        advance(_grammar_steps(scheduled, results))
        for one, result in zip(scheduled, results, strict=True):
            sequence = one.sequence
            assert sequence.slot is not None
            is_late = one.samples and not result.tokens
            sequence.num_computed_tokens += one.num_tokens - is_late
            sequence.prompt_logprobs += result.prompt_logprobs
            if sequence.request.embeds:
                sequence.add_hidden_sum(result.hidden_sum)
                outputs += [] if sequence.num_missing else [self._embedded(sequence)]
            if result.tokens:
                output = self._output(sequence, result.tokens)
                outputs.append(output)
                # The last of them was drawn and not computed, the others were both.
                sequence.num_computed_tokens += max(0, len(output.new_token_ids) - 1)
            if one.draft:
                assert sequence.lookup is not None
                sequence.lookup.learn(len(one.draft), len(result.tokens) - 1)
            sequence.slot.num_valid = sequence.num_computed_tokens
        return outputs

    def settle(self, timeout: float = 0) -> list[RequestOutput]:
        """Takes late answers of grammar processes; ends sequences that these complete or fail.

        Args:
            timeout: seconds to wait for an answer, if there is one to come.
        """
        receive([one.matcher for one in self._running if one.matcher is not None], timeout)
        outputs: list[RequestOutput] = []
        for sequence in list(self._running):
            matcher = sequence.matcher
            if matcher is None or not matcher.was_late or not matcher.is_answered:
                continue
            if matcher.is_complete:
                outputs.append(self.finish(sequence, FinishReason.STOP))
            elif matcher.state.error:
                logger.error(
                    "request failed: %s",
                    matcher.state.error,
                    extra={"request": sequence.request.request_id},
                )
                outputs.append(self.finish(sequence, FinishReason.ERROR))
            elif sequence.num_generated == sequence.request.sampling_params.max_tokens:
                outputs.append(self.finish(sequence, FinishReason.LENGTH))
        return outputs

    def _embedded(self, sequence: Sequence) -> RequestOutput:
        """The one output of a sequence whose prompt is embedded."""
        output = self.finish(sequence, FinishReason.EMBEDDED)
        return replace(output, embedding=sequence.embedding)

    def _output(self, sequence: Sequence, tokens: "list[SampledToken]") -> RequestOutput:
        """What its newest tokens mean for a sequence; there are none after the one that ends it."""
        reason = None
        kept: list[SampledToken] = []
        for token in tokens:
            sequence.token_ids.append(token.token_id)
            kept.append(token)
            try:
                reason = _find_end(sequence, token.token_id)
            except DeadEndError:
                logger.exception("request failed", extra={"request": sequence.request.request_id})
                return self.finish(sequence, FinishReason.ERROR)
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
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._slots.release(sequence.slot)
        return RequestOutput(sequence.request.request_id, [], reason, admission=sequence.admission)


def _grammar_steps(
    scheduled: list[ScheduledSequence], results: list[SequenceResult]
) -> "list[tuple[Matcher, list[int]]]":
    """The new tokens of sequences with grammars, without those that end one."""
    steps: list[tuple[Matcher, list[int]]] = []
    for one, result in zip(scheduled, results, strict=True):
        sequence = one.sequence
        token_ids = [token.token_id for token in result.tokens]
        if sequence.matcher is not None and not sequence.end_token_ids.intersection(token_ids):
            steps.append((sequence.matcher, token_ids))
    return [(matcher, token_ids) for matcher, token_ids in steps if token_ids]


def _find_end(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Why a sequence ends with its newest token, if it does; its matcher, if any, takes the token.

    Raises:
        DeadEndError: the token is not allowed there.
    """
    matcher = sequence.matcher
    if token_id in sequence.end_token_ids:
        if matcher is not None:
            matcher.end()
        return FinishReason.STOP
    if matcher is not None:
        matcher.check()
        if not matcher.is_answered:  # `settle` ends it
            return None
        if matcher.is_complete:
            return FinishReason.STOP
    if sequence.num_generated == sequence.request.sampling_params.max_tokens:
        return FinishReason.LENGTH
    return None


def _place_in_pack(one: ScheduledSequence) -> tuple[bool, int]:
    """Decodes first; slots that lie side by side in the cache do so in the pack."""
    assert one.sequence.slot is not None
    return one.size > 1, one.sequence.slot.index
