"""What an answer is to its caller: pieces of text, the sequences they make up, embeddings."""

import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.text.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar


TOKEN_SIZE = 4
LOGPROB_SIZE = 64
"""Bytes of JSON that a prompt's token, and a token with its log-probability, take in an answer."""


class Operation(StrEnum):
    """What a caller asks for, in the words of OpenTelemetry's conventions."""

    TEXT_COMPLETION = "text_completion"
    CHAT = "chat"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is new in one of a prompt's sequences.

    Args:
        index: which sequence, from 0; those of the same prompt follow one another.
        text: new text; may be empty.
        num_tokens: tokens it took; an end token counts.
        finish_reason: `stop` or `length` in a sequence's last delta, None before.
        logprobs: one for each of the tokens, if the request asks for them.
        prompt_logprobs: for the prompt's tokens but the first, in the first delta, likewise.
        num_cached_tokens: of the prompt, that were not computed again; in the first delta.
        stop_text: that ended the sequence, if one did.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    num_cached_tokens: int = 0
    stop_text: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in an answer, about."""
        return len(self.text) + _logprobs_size(self.logprobs, self.prompt_logprobs)


@dataclass(slots=True)
class Completion:
    """One sequence; `text` is the new text alone."""

    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    stop_text: str | None = None

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self.num_tokens += delta.num_tokens
        self.finish_reason = delta.finish_reason
        self.stop_text = delta.stop_text
        self.logprobs += delta.logprobs


@dataclass(slots=True)
class Generation:
    """All sequences for one prompt."""

    prompt_token_ids: list[int]
    completions: list[Completion]
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    num_cached_tokens: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """Bytes that it takes in an answer, about, with the prompt before each text."""
        prompt = len(self.prompt_token_ids) * TOKEN_SIZE + _logprobs_size(self.prompt_logprobs)
        return sum(
            prompt + len(one.text) + _logprobs_size(one.logprobs) for one in self.completions
        )

    def add(self, delta: TextDelta) -> None:
        """Adds what is new in one of the call's sequences, if the prompt is one of several too."""
        index = delta.index % len(self.completions)
        self.completions[index].add(delta)
        if index == 0:
            self.prompt_logprobs += delta.prompt_logprobs
            self.num_cached_tokens += delta.num_cached_tokens


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt, and what the model makes of it: numbers whose squares add up to 1."""

    prompt_token_ids: list[int]
    values: list[float]


class TextStream:
    """One of a call's sequences: its request, and its text so far.

    Args:
        index: which of all sequences, from 0.
        number: which of its prompt's; added to the seed.
        loaded: the model.
        prompt_token_ids: what it continues.
        params: how.
        grammar: what it must look like, compiled; None leaves it free.
    """

    def __init__(
        self,
        index: int,
        number: int,
        loaded: "LoadedModel",
        prompt_token_ids: list[int],
        params: SamplingParams,
        grammar: "Grammar | None" = None,
    ) -> None:
        if params.seed is not None:
            params = replace(params, seed=_in_64_bits(params.seed + number))
        self.request = Request(uuid.uuid4().hex, prompt_token_ids, params, grammar=grammar)
        self._index = index
        self._end_token_ids = params.end_token_ids(loaded.eos_token_ids)
        self._num_tokens = 0
        self._deltas: deque[TextDelta] = deque()  # of outputs that the caller has not read yet
        spelled = grammar.special_token_ids if grammar else frozenset()
        self._detokenizer = IncrementalDetokenizer(
            loaded.tokenizer, prompt_token_ids, params.stop, spelled
        )

    def trim(self, output: RequestOutput) -> RequestOutput:
        """Returns the output without the tokens after a stop text, which ends the sequence.

        Its text is then the next delta that `take` returns.
        """
        text, num_tokens, reason = "", 0, output.finish_reason
        for token_id in output.new_token_ids:
            num_tokens += 1
            if token_id not in self._end_token_ids:
                text += self._detokenizer.push(token_id, may_stop=self._may_stop(num_tokens))
            if self._detokenizer.stopped:
                break
        self._num_tokens += num_tokens
        if reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
            output = replace(
                output,
                new_token_ids=output.new_token_ids[:num_tokens],
                finish_reason=reason,
                logprobs=output.logprobs[:num_tokens],
            )
        self._deltas.append(self._delta(output, text))
        return output

    def take(self) -> TextDelta:
        """Returns what the oldest trimmed output says, once."""
        return self._deltas.popleft()

    def _delta(self, output: RequestOutput, text: str) -> TextDelta:
        return TextDelta(
            self._index,
            text,
            len(output.new_token_ids),
            output.finish_reason,
            output.logprobs,
            output.prompt_logprobs,
            output.admission.num_cached_tokens if output.admission else 0,
            self._detokenizer.stop_text,
        )

    def _may_stop(self, num_new: int) -> bool:
        return self._num_tokens + num_new >= self.request.sampling_params.min_tokens


def _logprobs_size(*lists: list[PositionLogprobs]) -> int:
    """Each position of a request tells of as many alternatives as the first."""
    return LOGPROB_SIZE * sum(len(one) * (1 + len(one[0].top)) for one in lists if one)


def _in_64_bits(number: int) -> int:
    """The number itself if it fits, and after the largest that does comes the least."""
    return (number + 2**63) % 2**64 - 2**63
