"""Results for callers: text deltas, completions, generations, embeddings."""

from dataclasses import dataclass, field
from enum import StrEnum

from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason

TOKEN_SIZE = 4
"""Bytes of JSON for a prompt's token, about."""

LOGPROB_SIZE = 64
"""Bytes of JSON for a token with its log-probability, about."""


class Operation(StrEnum):
    """Operation of a call, by the names of OpenTelemetry's conventions for generative AI."""

    TEXT_COMPLETION = "text_completion"
    CHAT = "chat"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one sequence.

    Args:
        index: number of the sequence in the call, from 0; a prompt's sequences are consecutive.
        text: new text; may be empty.
        reasoning: new text of the thought before the text.
        num_tokens: tokens behind both; an end token counts.
        num_reasoning_tokens: those of the thought and its tags.
        finish_reason: `stop` or `length` in a sequence's last delta, None before.
        logprobs: one for each token of the text, if the request asks for them.
        prompt_logprobs: one for each of the prompt's tokens but the first, in the first delta.
        num_cached_tokens: the prompt's tokens found in the KV cache, in the first delta.
        stop_text: the stop text that ended the sequence, if one did.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    num_cached_tokens: int = 0
    stop_text: str | None = None
    reasoning: str = ""
    num_reasoning_tokens: int = 0

    @property
    def size(self) -> int:
        """Bytes of the delta in a response, about."""
        num_characters = len(self.text) + len(self.reasoning)
        return num_characters + _logprobs_size(self.logprobs, self.prompt_logprobs)


@dataclass(slots=True)
class Completion:
    """One sequence of a prompt; `text` holds the new text alone."""

    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    stop_text: str | None = None
    reasoning: str = ""
    num_reasoning_tokens: int = 0

    @property
    def size(self) -> int:
        """Bytes of the completion in a response, about."""
        return len(self.text) + len(self.reasoning) + _logprobs_size(self.logprobs)

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.num_reasoning_tokens += delta.num_reasoning_tokens
        self.num_tokens += delta.num_tokens
        self.finish_reason = delta.finish_reason
        self.stop_text = delta.stop_text
        self.logprobs += delta.logprobs


@dataclass(slots=True)
class Generation:
    """All sequences of one prompt."""

    prompt_token_ids: list[int]
    completions: list[Completion]
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    num_cached_tokens: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """Bytes of all completions in a response, about, with the prompt before each text."""
        prompt = len(self.prompt_token_ids) * TOKEN_SIZE + _logprobs_size(self.prompt_logprobs)
        return sum(prompt + completion.size for completion in self.completions)

    def add(self, delta: TextDelta) -> None:
        """Adds a delta of one of the prompt's sequences; the index may be that of a batch."""
        index = delta.index % len(self.completions)
        self.completions[index].add(delta)
        if index == 0:
            self.prompt_logprobs += delta.prompt_logprobs
            self.num_cached_tokens += delta.num_cached_tokens


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt and its embedding, a vector of length 1."""

    prompt_token_ids: list[int]
    values: list[float]


def _logprobs_size(*lists: list[PositionLogprobs]) -> int:
    """Returns the bytes of log-probabilities; all positions have as many alternatives."""
    return LOGPROB_SIZE * sum(
        len(positions) * (1 + len(positions[0].top)) for positions in lists if positions
    )
