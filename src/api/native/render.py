"""Rendering of generations as answers and deltas of the native API."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from src.api.fields.timings import create_timings
from src.core.outputs import Completion, Generation, TextDelta
from src.core.timings import CallTimings
from src.engine import logprobs
from src.engine.request import FinishReason
from src.inference import InferenceEngine
from src.models import (
    Ending,
    GenerateDelta,
    GeneratedText,
    GenerateResponse,
    PositionLogprobs,
    TokenLogprob,
)


@dataclass(slots=True)
class Renderer:
    """Renders the answer to one prompt, whole or in deltas.

    Args:
        engine: decodes tokens.
        prompt: prefix of the texts; empty if they hold the new text alone.
        num_sequences: number of the prompt's sequences.
        num_prompt_tokens: length of the prompt; needed for deltas alone.
        timings: of the call; None leaves them out.
    """

    engine: InferenceEngine
    prompt: str
    num_sequences: int = 1
    num_prompt_tokens: int = 0
    timings: CallTimings | None = None
    _num_ended: int = 0
    _num_tokens: dict[int, int] = field(default_factory=dict)  # by index of the sequence
    _texts: dict[int, str] = field(default_factory=dict)  # of tokens, by their ids

    def response(self, generation: Generation) -> GenerateResponse:
        """Returns the whole answer."""
        return GenerateResponse(
            generated=[self._generated_text(item) for item in generation.completions],
            model=self.engine.model_name,
            prompt_tokens=len(generation.prompt_token_ids),
            prompt_logprobs=self._logprobs(generation.prompt_logprobs),
            timings=create_timings(self.timings) if self.timings else None,
        )

    def _generated_text(self, completion: Completion) -> GeneratedText:
        return GeneratedText(
            text=self.prompt + completion.text,
            tokens=completion.num_tokens,
            finish_reason=_ending(completion.finish_reason) or "length",
            logprobs=self._logprobs(completion.logprobs),
        )

    def deltas(self, delta: TextDelta) -> Iterator[GenerateDelta]:
        """Yields the delta on the wire; none for a delta without text, counts or logprobs."""
        index = delta.index
        is_first = index not in self._num_tokens
        self._num_tokens[index] = self._num_tokens.get(index, 0) + delta.num_tokens
        text = self.prompt + delta.text if is_first else delta.text
        reason = _ending(delta.finish_reason)
        fields: dict[str, object] = {}
        if delta.logprobs:
            fields["logprobs"] = self._logprobs(delta.logprobs)
        if delta.prompt_logprobs and index == 0:
            fields["prompt_logprobs"] = self._logprobs(delta.prompt_logprobs)
        if reason is not None:
            fields["tokens"] = self._num_tokens[index]
            fields["prompt_tokens"] = self.num_prompt_tokens
            self._num_ended += 1
            if self.timings is not None and self._num_ended == self.num_sequences:
                fields["timings"] = create_timings(self.timings)
        if text or fields:
            yield GenerateDelta.model_validate(
                {"index": index, "text": text, "finish_reason": reason} | fields
            )

    def _logprobs(
        self, positions: list[logprobs.PositionLogprobs]
    ) -> Iterator[PositionLogprobs] | None:
        return map(self._position, positions) if positions else None

    def _position(self, position: logprobs.PositionLogprobs) -> PositionLogprobs:
        top = [TokenLogprob(**self._logprob(token)) for token in position.top]
        return PositionLogprobs(**self._logprob(position.chosen), top=top)

    def _logprob(self, token: logprobs.TokenLogprob) -> dict[str, Any]:
        text = self._texts.get(token.token_id)
        if text is None:
            text = self._texts[token.token_id] = self.engine.codec.decode_token(token.token_id)
        return {"id": token.token_id, "token": text, "logprob": token.logprob}


def _ending(reason: FinishReason | None) -> Ending | None:
    if reason is None:
        return None
    return "stop" if reason is FinishReason.STOP else "length"
