"""`Sequence`: the state of a request in the engine. No torch."""

import math
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from src.engine.logprobs import PositionLogprobs
from src.engine.request import Admission, Request
from src.engine.scheduling.blocks import Block
from src.engine.scheduling.prompt_lookup import PromptLookup
from src.engine.thought import ThoughtTracker

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Matcher


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in the engine.

    Args:
        request: as it was admitted.
        end_token_ids: tokens that end the sequence.
        seed: the request's, or a random one.
        matcher: position in the request's grammar, if it has one.
        thought: state of the thought before the answer, if the engine follows it.
        token_ids: prompt and generated tokens.
        num_computed_tokens: number of first tokens with keys and values in the cache.
        blocks: of the KV cache, in the order of the tokens; none while the sequence waits.
        block_table: their indices, after those of the blocks that were given back.
        num_released_blocks: number of first blocks that were given back, beyond all windows.
        digests: of the first full blocks, as far as they are known.
        num_registered_blocks: number of first blocks that other sequences can share.
        awaited: digest of a block that a running sequence is computing for this one too.
        admission: reported with the first token, then None.
        in_background: it makes way for all sequences that are not.
        waits_since: time from which the queue's deadline counts.
        expires: the queue's deadline holds: no sequence of the same request has been admitted.
        num_preemptions: number of times that another sequence took this one's place.
        num_prefilled_tokens: number of prompt tokens computed for this sequence, repeated ones too.
        prompt_logprobs: reported with the first token, then empty.
        hidden_sum: sum of the last hidden states of the computed tokens, for an embedding.
        lookup: proposes drafts; None before the first one.
    """

    request: Request
    end_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    matcher: "Matcher | None" = None
    thought: ThoughtTracker | None = None
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    blocks: list[Block] = field(default_factory=list)
    block_table: "array[int]" = field(default_factory=lambda: array("i"))
    num_released_blocks: int = 0
    digests: list[bytes] = field(default_factory=list)
    num_registered_blocks: int = 0
    awaited: bytes | None = None
    admission: Admission | None = None
    in_background: bool = False
    waits_since: float = 0
    expires: bool = True
    num_preemptions: int = 0
    num_prefilled_tokens: int = 0
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
    def is_running(self) -> bool:
        """True while the sequence has blocks of the KV cache, and so a running place."""
        return bool(self.blocks)

    @property
    def is_prefilling(self) -> bool:
        return self.num_missing > 1

    @property
    def is_full(self) -> bool:
        """True when the sequence has `max_tokens` generated tokens."""
        return self.num_generated == self.request.sampling_params.max_tokens

    @property
    def awaits_grammar(self) -> bool:
        """True while steps leave the sequence out, until its grammar's process has answered."""
        return self.matcher is not None and (self.matcher.is_left_out or self.is_full)

    @property
    def next_matcher(self) -> "Matcher | None":
        """The matcher, if the grammar constrains the next token; None inside of a thought."""
        return None if self.thought is not None and self.thought.is_open else self.matcher

    @property
    def needs_every_position(self) -> bool:
        """True if cached tokens must be computed too, for the first output."""
        return self.request.needs_every_position and not self.num_generated

    def add_blocks(self, blocks: list[Block]) -> None:
        """Appends blocks for the next tokens."""
        self.blocks += blocks
        self.block_table.extend(block.index for block in blocks)

    def take_blocks(self, end: int) -> list[Block]:
        """Gives up the blocks before number `end`, but not the last one.

        Attention will not read them again.
        """
        num_taken = max(0, min(end - self.num_released_blocks, len(self.blocks) - 1))
        taken, self.blocks = self.blocks[:num_taken], self.blocks[num_taken:]
        self.num_released_blocks += len(taken)
        return taken

    def drop_blocks(self) -> None:
        """Forgets all blocks, which the cache has got back."""
        self.blocks, self.block_table = [], array("i")
        self.num_registered_blocks = self.num_released_blocks = 0

    def preempt(self) -> None:
        """Prepares the next admission, after which the sequence is computed from the beginning.

        It keeps its tokens. Prompt log-probabilities and hidden states are collected again.
        """
        self.num_computed_tokens = 0
        self.num_preemptions += 1
        self.prompt_logprobs, self.hidden_sum = [], []

    def set_cached(self, num_cached_tokens: int) -> None:
        """Marks the first tokens as computed, because their keys and values are cached.

        Tokens that the sequence computed before a preemption are not reported as cached.
        """
        self.num_computed_tokens = num_cached_tokens
        if self.admission is not None:
            num_reported = max(0, num_cached_tokens - self.num_prefilled_tokens)
            self.admission = replace(self.admission, num_cached_tokens=num_reported)

    def draft(self, max_tokens: int, max_draft_tokens: int) -> tuple[int, ...]:
        """Proposes tokens that may follow, by prompt lookup.

        Drafts begin after the first generated token. A sequence with a grammar has none, as its
        matcher gives the mask of one position only. No draft passes the end of a thought's budget.

        Args:
            max_tokens: limit of this draft.
            max_draft_tokens: limit of any draft of this sequence.
        """
        num_left = self.request.sampling_params.max_tokens - self.num_generated
        limit = min(max_tokens, num_left - 1)
        if self.thought is not None and self.thought.num_free is not None:
            limit = min(limit, self.thought.num_free - 1)
        if not self.num_generated or self.matcher is not None or limit < 1:
            return ()
        if self.lookup is None:
            self.lookup = PromptLookup(self.token_ids, max_draft_tokens)
        return tuple(self.lookup.draft(limit))

    def banned_token_ids(self, num_drafted: int = 0) -> frozenset[int]:
        """Returns the tokens that must not come next: end tokens before `min_tokens`.

        Inside of a thought before a grammar these are banned too: the answer must fit the grammar.

        Args:
            num_drafted: number of drafted tokens that precede the position.
        """
        if self.matcher is not None and self.next_matcher is None:
            return self.end_token_ids
        if self.num_generated + num_drafted < self.request.sampling_params.min_tokens:
            return self.end_token_ids
        return frozenset()

    @property
    def embedding(self) -> list[float]:
        """Mean hidden state, scaled to length 1. The sum has the same direction."""
        length = math.hypot(*self.hidden_sum)
        return [value / length for value in self.hidden_sum] if length else self.hidden_sum

    def add_hidden_sum(self, hidden_sum: list[float]) -> None:
        """Adds the sum of another chunk of the prompt."""
        if self.hidden_sum:
            pairs = zip(self.hidden_sum, hidden_sum, strict=True)
            hidden_sum = [total + chunk for total, chunk in pairs]
        self.hidden_sum = hidden_sum
