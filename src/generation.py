"""What a generation is to its caller: pieces of text, and the sequences they make up."""

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from src.engine.detokenizer import IncrementalDetokenizer
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from src.engine.model_loader import LoadedModel


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is new in one of a prompt's sequences.

    Args:
        index: which sequence, from 0.
        text: new text; may be empty.
        num_tokens: tokens it took; an end token counts.
        finish_reason: `stop` or `length` in a sequence's last delta, None before.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Completion:
    """One sequence; `text` is the new text alone."""

    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self.num_tokens += delta.num_tokens
        self.finish_reason = delta.finish_reason


@dataclass(frozen=True, slots=True)
class Generation:
    """All sequences for one prompt."""

    num_prompt_tokens: int
    completions: list[Completion]


class TextStream:
    """One of a call's sequences: its request, and its text so far."""

    def __init__(
        self, index: int, loaded: "LoadedModel", prompt_token_ids: list[int], params: SamplingParams
    ) -> None:
        if params.seed is not None:
            params = replace(params, seed=params.seed + index)
        self.request = Request(uuid.uuid4().hex, prompt_token_ids, params)
        self._index = index
        self._eos_token_ids = loaded.eos_token_ids
        self._detokenizer = IncrementalDetokenizer(loaded.tokenizer, prompt_token_ids, params.stop)

    def advance(self, output: RequestOutput) -> TextDelta:
        """Turns the engine's tokens into text; a stop string ends the sequence."""
        text, num_tokens, reason = "", 0, output.finish_reason
        for token_id in output.new_token_ids:
            num_tokens += 1
            if token_id not in self._eos_token_ids:
                text += self._detokenizer.push(token_id)
            if self._detokenizer.stopped:
                break
        if reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
        return TextDelta(self._index, text, num_tokens, reason)
