"""Rendering of generations as answers and chunks of `/v1/completions`."""

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from src.api.fields.timings import timings_fields
from src.api.openai.common import UsageCount, answer_head
from src.api.openai.completions.schemas import (
    Completion,
    CompletionChoice,
    CompletionRequest,
    Logprobs,
)
from src.core.outputs import Completion as Sequence
from src.core.outputs import Generation, TextDelta
from src.core.timings import CallTimings
from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason
from src.inference import InferenceEngine
from src.text.token_bytes import TokenText


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """A prompt, with its text if the answer begins with it."""

    token_ids: list[int]
    text: str = ""


@dataclass(slots=True)
class CompletionRenderer:
    """Renders the answer to one request.

    Args:
        engine: decodes tokens.
        body: the request's wire model.
        prompts: the request's prompts.
    """

    engine: InferenceEngine
    body: CompletionRequest
    prompts: list[EchoedPrompt]
    _head: dict[str, Any] = field(init=False)
    _offsets: dict[int, "_Offsets"] = field(default_factory=dict)  # by index of the choice

    def __post_init__(self) -> None:
        self._head = answer_head("cmpl", "text_completion", self.engine)
        if self.body.includes_usage:
            self._head["usage"] = None

    def whole(
        self, generations: list[Generation], count: UsageCount, timings: CallTimings
    ) -> Completion:
        """Returns the whole answer."""
        choices = [
            self._choice(delta)
            for number, generation in enumerate(generations)
            for delta in self._best(number * self.body.num_choices, generation)
        ]
        fields = timings_fields(self.body.timings, timings)
        return Completion(**self._head | {"choices": choices, "usage": count.usage()} | fields)

    def chunks(self, delta: TextDelta) -> Iterator[Completion]:
        """Yields the chunk of a delta; none for a delta without text, logprobs or end."""
        choice = self._choice(delta)
        if choice.text or choice.logprobs or choice.finish_reason:
            yield Completion(**self._head | {"choices": [choice]})

    def end_chunk(self, fields: dict[str, Any]) -> Completion:
        """Returns the last chunk, which has fields of the whole answer and no choices."""
        return Completion(**self._head | {"choices": []} | fields)

    def _best(self, first_index: int, generation: Generation) -> list[TextDelta]:
        """Returns the best sequences of a prompt, each as one delta."""
        sequences = generation.completions
        if len(sequences) > self.body.num_choices:
            sequences = sorted(sequences, key=_mean_logprob, reverse=True)[: self.body.num_choices]
        return [
            TextDelta(
                first_index + number,
                sequence.text,
                sequence.num_tokens,
                sequence.finish_reason,
                sequence.logprobs,
                generation.prompt_logprobs,
            )
            for number, sequence in enumerate(sequences)
        ]

    def _choice(self, delta: TextDelta) -> CompletionChoice:
        is_first = delta.index not in self._offsets
        offsets = self._offsets.setdefault(delta.index, _Offsets())
        prompt = self.prompts[delta.index // self.body.num_choices]
        text = "" if self.body.max_tokens == 0 else delta.text
        return CompletionChoice(
            index=delta.index,
            text=prompt.text + text if is_first else text,
            logprobs=self._logprobs(delta, prompt if is_first else None, offsets),
            finish_reason=self._finish_reason(delta.finish_reason),
        )

    def _finish_reason(self, reason: FinishReason | None) -> Literal["stop", "length"] | None:
        if reason is None:
            return None
        is_stopped = reason is FinishReason.STOP and self.body.max_tokens != 0
        return "stop" if is_stopped else "length"

    def _logprobs(
        self, delta: TextDelta, prompt: EchoedPrompt | None, offsets: "_Offsets"
    ) -> Logprobs | None:
        if self.body.logprobs is None:
            return None
        token_ids: list[int] = []
        positions: list[PositionLogprobs | None] = []
        if prompt is not None and self.body.echo:
            token_ids.append(prompt.token_ids[0])
            positions += [None, *delta.prompt_logprobs]
        if self.body.max_tokens != 0:
            positions += delta.logprobs
        token_ids += [position.chosen.token_id for position in positions if position]
        if not token_ids:
            return None
        tokens = [self.engine.codec.token_bytes.get(token_id) for token_id in token_ids]
        return Logprobs(
            tokens=list(map(_spelling, tokens)),
            token_logprobs=[
                position.chosen.logprob if position else None for position in positions
            ],
            top_logprobs=map(self._top, positions),
            text_offset=list(map(offsets.advance, tokens)),
        )

    def _top(self, position: PositionLogprobs | None) -> dict[str, float] | None:
        if position is None:  # the first token of a prompt has no log-probability
            return None
        top: dict[str, float] = {}
        # The most likely of several tokens with the same spelling wins.
        for token in [*position.top, position.chosen]:
            top.setdefault(
                _spelling(self.engine.codec.token_bytes.get(token.token_id)), token.logprob
            )
        return top


class _Offsets:
    """Character offsets of tokens in the text of a choice."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def advance(self, token: TokenText) -> int:
        """Returns the offset of the next token."""
        start = self._offset
        if not token.is_special:
            self._offset += len(self._decoder.decode(token.data))
        return start


def _spelling(token: TokenText) -> str:
    """Returns a token as OpenAI spells it: incomplete characters as `bytes:\\xe2\\x82`."""
    if token.text is not None:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _mean_logprob(sequence: Sequence) -> float:
    """Returns the mean log-probability of the tokens; -inf without tokens."""
    if not sequence.logprobs:
        return -math.inf
    total = sum(position.chosen.logprob for position in sequence.logprobs)
    return total / len(sequence.logprobs)
