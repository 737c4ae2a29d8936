"""A request on its way through the engine, and its part in a step. No torch."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from src.engine.logprobs import PositionLogprobs, SampledToken
from src.engine.request import Admission, Request
from src.engine.scheduling.kv_slots import Slot
from src.engine.scheduling.prompt_lookup import PromptLookup

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Matcher


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way.

    Args:
        request: what was asked for.
        end_token_ids: tokens that end it.
        seed: the request's, or one drawn for it.
        matcher: where it stands in the request's grammar, if there is one.
        token_ids: prompt and generated tokens.
        num_computed_tokens: of them whose keys and values are in the slot.
        slot: None while it waits.
        leader: a sequence that is computing the prefix of this one, which waits for it.
        num_shared_tokens: length of that prefix.
        admission: until it left with the first token.
        expires: whether the queue's deadline counts: no sequence of its request had a turn yet.
        num_preemptions: how often it gave its place to another tenant.
        num_own_tokens: of its prompt that it has computed itself, each time counted.
        prompt_logprobs: until they left with the first token.
        hidden_sum: of the last hidden states of what is computed, if the prompt is embedded.
        lookup: guesses its next tokens, once it has begun to.
    """

    request: Request
    end_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    matcher: "Matcher | None" = None
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    slot: Slot | None = None
    leader: Self | None = None
    num_shared_tokens: int = 0
    admission: Admission | None = None
    expires: bool = True
    num_preemptions: int = 0
    num_own_tokens: int = 0
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    hidden_sum: list[float] = field(default_factory=list)
    lookup: PromptLookup | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_missing(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def is_prefilling(self) -> bool:
        return self.num_missing > 1

    @property
    def is_left_out(self) -> bool:
        """Whether it is left out of steps until its grammar's process has answered."""
        is_full = self.num_generated == self.request.sampling_params.max_tokens
        return self.matcher is not None and (self.matcher.is_left_out or is_full)

    @property
    def needs_every_position(self) -> bool:
        """Whether cached tokens have to be computed too, for what its first output brings."""
        return self.request.needs_every_position and not self.num_generated

    def give_way(self) -> None:
        """Leaves its slot and starts anew at its next turn, with all tokens that it has so far.

        What leaves with the first output is collected anew too.
        """
        self.slot, self.leader, self.num_shared_tokens = None, None, 0
        self.num_computed_tokens = 0
        self.num_preemptions += 1
        self.prompt_logprobs, self.hidden_sum = [], []

    def set_cached(self, num_cached_tokens: int) -> None:
        """Takes over what need not be computed.

        Tokens that it computed itself before it was preempted are not reported as cached.
        """
        self.num_computed_tokens = num_cached_tokens
        if self.admission is not None:
            num_reported = max(0, num_cached_tokens - self.num_own_tokens)
            self.admission = replace(self.admission, num_cached_tokens=num_reported)

    def banned_token_ids(self, num_drafted: int = 0) -> frozenset[int]:
        """Tokens that may not come next, or after so many more: none may end it too early."""
        if self.num_generated + num_drafted < self.request.sampling_params.min_tokens:
            return self.end_token_ids
        return frozenset()

    @property
    def embedding(self) -> list[float]:
        """The mean hidden state at length 1; the sum has the same direction."""
        length = math.hypot(*self.hidden_sum)
        return [value / length for value in self.hidden_sum] if length else self.hidden_sum

    def add_hidden_sum(self, more: list[float]) -> None:
        """Adds what another part of the prompt gave."""
        if self.hidden_sum:
            more = [old + new for old, new in zip(self.hidden_sum, more, strict=True)]
        self.hidden_sum = more


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence's part in a step: compute its next `num_tokens`, and sample if it then has all.

    A `draft` of what may follow them is computed and sampled too.
    """

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Tokens that it adds to the step."""
        return self.num_tokens + len(self.draft)

    @property
    def samples(self) -> bool:
        return self.is_last and not self.sequence.request.embeds

    @property
    def num_sampled(self) -> int:
        """Positions that a token is drawn for."""
        return 1 + len(self.draft) if self.samples else 0

    @property
    def is_last(self) -> bool:
        """Whether the sequence then has all."""
        return self.num_tokens == self.sequence.num_missing

    @property
    def next_prompt_token_ids(self) -> list[int]:
        """The prompt's tokens whose log-probabilities this part's logits give, if wanted."""
        params = self.sequence.request.sampling_params
        if params.prompt_logprobs is None or self.sequence.num_generated:
            return []  # after a preemption the prompt is computed again, and they have left
        start = self.sequence.num_computed_tokens + 1
        return self.sequence.request.prompt_token_ids[start : start + self.num_tokens]


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What a step computed for one sequence; no tokens if it has not all of its prompt yet, or if
    its token mask was late: then the last token is computed again.

    Several tokens are those of its draft that were drawn, and one more. One whose prompt is
    embedded never has a token, but the sum of its tokens' hidden states.
    """

    tokens: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    hidden_sum: list[float] = field(default_factory=list)
