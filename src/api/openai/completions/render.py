"""Generations in the words of `/v1/completions`: whole answers and chunks, by the same code."""

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from src.api.openai.common import Usage, UsageCount, answer_head
from src.api.openai.completions.schemas import (
    Completion,
    CompletionChoice,
    CompletionRequest,
    Logprobs,
)
from src.core.outputs import Completion as Sequence
from src.core.outputs import Generation, TextDelta
from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason
from src.inference import InferenceEngine
from src.text.token_bytes import TokenText


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """A prompt, with its text if that is to be answered too."""

    token_ids: list[int]
    text: str = ""


@dataclass(slots=True)
class CompletionRenderer:
    """Makes the answer to one request.

    Args:
        engine: knows how tokens are written.
        body: the request.
        prompts: its prompts.
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

    def whole(self, generations: list[Generation], count: UsageCount) -> Completion:
        """The answer without a stream."""
        choices = [
            self._choice(delta)
            for number, generation in enumerate(generations)
            for delta in self._best(number * self.body.num_choices, generation)
        ]
        return Completion(**self._head | {"choices": choices, "usage": count.usage()})

    def chunks(self, delta: TextDelta) -> Iterator[Completion]:
        """What is new, if that is anything that a reader can see."""
        choice = self._choice(delta)
        if choice.text or choice.logprobs or choice.finish_reason:
            yield Completion(**self._head | {"choices": [choice]})

    def usage_chunk(self, usage: Usage) -> Completion:
        return Completion(**self._head | {"choices": [], "usage": usage})

    def _best(self, first_index: int, generation: Generation) -> list[TextDelta]:
        """The choices of a prompt, each as if all of it came at once."""
        sequences = generation.completions
        if len(sequences) > self.body.num_choices:
            sequences = sorted(sequences, key=_mean_logprob, reverse=True)[: self.body.num_choices]
        return [
            TextDelta(
                first_index + number,
                one.text,
                one.num_tokens,
                one.finish_reason,
                one.logprobs,
                generation.prompt_logprobs,
            )
            for number, one in enumerate(sequences)
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
        token_ids += [one.chosen.token_id for one in positions if one]
        if not token_ids:
            return None
        tokens = [self.engine.token(token_id) for token_id in token_ids]
        return Logprobs(
            tokens=list(map(_written, tokens)),
            token_logprobs=[one.chosen.logprob if one else None for one in positions],
            top_logprobs=map(self._top, positions),
            text_offset=list(map(offsets.pass_by, tokens)),
        )

    def _top(self, position: PositionLogprobs | None) -> dict[str, float] | None:
        if position is None:  # of a prompt's first token nothing is known
            return None
        top: dict[str, float] = {}
        # Of tokens that are written alike the likeliest is told.
        for one in [*position.top, position.chosen]:
            top.setdefault(_written(self.engine.token(one.token_id)), one.logprob)
        return top


class _Offsets:
    """Where in a choice's text its tokens begin."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def pass_by(self, token: TokenText) -> int:
        """Returns where this token begins."""
        start = self._at
        if not token.is_special:
            self._at += len(self._decoder.decode(token.data))
        return start


def _written(token: TokenText) -> str:
    """A token as OpenAI writes it: what is no whole character as `bytes:\\xe2\\x82`."""
    if token.text is not None:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _mean_logprob(sequence: Sequence) -> float:
    """Mean log-probability of the tokens; lowest for a sequence cut before its first token."""
    if not sequence.logprobs:
        return -math.inf
    return sum(one.chosen.logprob for one in sequence.logprobs) / len(sequence.logprobs)
