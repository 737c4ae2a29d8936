"""Plan and results of one step. No torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from src.engine.logprobs import PositionLogprobs, SampledToken
from src.engine.request import FinishReason, RequestOutput
from src.engine.scheduling.blocks import Block
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.stop_conditions import find_end

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Matcher


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence's part in a step.

    Args:
        sequence: not changed by the step; `record` does that afterwards.
        num_tokens: number of its next tokens to compute.
        draft: proposed tokens after these, to be computed and verified.
    """

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of tokens that this part adds to the step."""
        return self.num_tokens + len(self.draft)

    @property
    def is_last(self) -> bool:
        """True if no token of the sequence is missing after the step."""
        return self.num_tokens == self.sequence.num_missing

    @property
    def samples(self) -> bool:
        return self.is_last and not self.sequence.request.embeds

    @property
    def num_sampled(self) -> int:
        """Number of positions at which a token is sampled."""
        return 1 + len(self.draft) if self.samples else 0

    @property
    def next_prompt_token_ids(self) -> list[int]:
        """Prompt tokens with wanted log-probabilities, which follow from this part's logits."""
        params = self.sequence.request.sampling_params
        if params.prompt_logprobs is None or self.sequence.num_generated:
            return []  # after a preemption the prompt is computed again, and they were reported
        start = self.sequence.num_computed_tokens + 1
        return self.sequence.request.prompt_token_ids[start : start + self.num_tokens]


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """Plan of a step. Parts of one token precede all others.

    Args:
        scheduled: sequences to compute.
        dirty: blocks to clear first, with the sequences that have got them.
        num_preempted: number of sequences that lost their places or their blocks.
    """

    scheduled: list[ScheduledSequence]
    dirty: list[tuple[Sequence, list[Block]]]
    num_preempted: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(one.size for one in self.scheduled)

    @property
    def num_drafted(self) -> int:
        return sum(len(one.draft) for one in self.scheduled)


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """Results of a step for one sequence.

    Args:
        tokens: drafted tokens that were accepted, then the sampled one. Empty while the prompt is
            incomplete, for embeddings, and if the token mask was late: then the last token has to
            be computed again.
        prompt_logprobs: of `ScheduledSequence.next_prompt_token_ids`.
        hidden_sum: sum of the computed tokens' hidden states, for embeddings.
    """

    tokens: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    hidden_sum: list[float] = field(default_factory=list)


def grammar_tokens(
    scheduled: list[ScheduledSequence], results: list[SequenceResult]
) -> "list[tuple[Matcher, list[int]]]":
    """Returns the new tokens of sequences with grammars.

    Tokens of a thought and of sequences that an end token ends are left out.
    """
    tokens: list[tuple[Matcher, list[int]]] = []
    for one, result in zip(scheduled, results, strict=True):
        sequence = one.sequence
        token_ids = [token.token_id for token in result.tokens]
        is_ended = not sequence.end_token_ids.isdisjoint(token_ids)
        if sequence.matcher is None or not token_ids or is_ended:
            continue
        if sequence.thought is None or not sequence.thought.takes(token_ids[0]):
            tokens.append((sequence.matcher, token_ids))
    return tokens


def record(one: ScheduledSequence, result: SequenceResult) -> RequestOutput | None:
    """Updates a sequence with its results; returns its output, if it has one.

    A finish reason in the output means that the sequence has ended; the caller frees its blocks.

    Raises:
        DeadEndError: the sequence's grammar does not allow the token.
    """
    sequence = one.sequence
    is_late = one.samples and not result.tokens
    num_computed = one.num_tokens - is_late
    sequence.num_computed_tokens += num_computed
    if not sequence.num_generated:
        sequence.num_prefilled_tokens += num_computed
    sequence.prompt_logprobs += result.prompt_logprobs
    if one.draft:
        assert sequence.lookup is not None
        sequence.lookup.learn(len(one.draft), len(result.tokens) - 1)
    output = None
    if sequence.request.embeds:
        output = _add_hidden_sum(sequence, result.hidden_sum)
    elif result.tokens:
        output = _add_tokens(sequence, result.tokens, len(one.draft))
        # The accepted tokens were computed; the last one was only sampled.
        sequence.num_computed_tokens += max(0, len(output.new_token_ids) - 1)
    return output


def _add_hidden_sum(sequence: Sequence, hidden_sum: list[float]) -> RequestOutput | None:
    sequence.add_hidden_sum(hidden_sum)
    if sequence.num_missing:
        return None
    return RequestOutput(
        sequence.request.request_id,
        [],
        FinishReason.EMBEDDED,
        admission=sequence.admission,
        embedding=sequence.embedding,
    )


def _add_tokens(sequence: Sequence, tokens: list[SampledToken], num_drafted: int) -> RequestOutput:
    """Appends new tokens, up to the one that ends the sequence."""
    reason = None
    kept: list[SampledToken] = []
    for token in tokens:
        sequence.token_ids.append(token.token_id)
        if sequence.thought is not None:
            sequence.thought.add(token.token_id)
        kept.append(token)
        reason = find_end(sequence, token.token_id)
        if reason is not None:
            break
    output = RequestOutput(
        sequence.request.request_id,
        [token.token_id for token in kept],
        reason,
        [token.logprobs for token in kept if token.logprobs],
        sequence.prompt_logprobs,
        sequence.admission,
        num_drafted=num_drafted,
    )
    sequence.prompt_logprobs, sequence.admission = [], None
    return output
