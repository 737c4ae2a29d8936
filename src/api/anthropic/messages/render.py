"""Generations in the words of `/v1/messages`: whole messages and events, by the same code."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import BaseModel

from src.api.anthropic.messages.answer import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputText,
    StopReason,
    TextDeltaPart,
)
from src.engine.request import FinishReason
from src.generation import Generation, TextDelta


@dataclass(slots=True)
class MessageRenderer:
    """Makes the answer to one request, whole or in events.

    Args:
        model_name: the served model's.
        num_prompt_tokens: of the conversation.
        is_cut: the context has less room than the request's max_tokens.
    """

    model_name: str
    num_prompt_tokens: int
    is_cut: bool
    _id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    _num_cached_tokens: int = 0
    _num_tokens: int = 0
    _has_begun: bool = False

    def whole(self, generation: Generation) -> Message:
        """The answer without a stream."""
        (completion,) = generation.completions
        self._num_cached_tokens = generation.num_cached_tokens
        self._num_tokens = completion.num_tokens
        ending = self._ending(completion.finish_reason, completion.stop_text)
        return self._message([_block(completion.text)], ending)

    def events(self, delta: TextDelta) -> Iterator[BaseModel]:
        """What a delta says: the first one begins the message, the last one ends it."""
        self._num_cached_tokens += delta.num_cached_tokens
        if not self._has_begun:
            self._has_begun = True
            yield MessageStart(type="message_start", message=self._message([], None))
            yield BlockStart(type="content_block_start", index=0, content_block=_block(""))
        self._num_tokens += delta.num_tokens
        if delta.text:
            part = TextDeltaPart(type="text_delta", text=delta.text)
            yield BlockDelta(type="content_block_delta", index=0, delta=part)
        if delta.finish_reason is not None:
            yield BlockStop(type="content_block_stop", index=0)
            ending = self._ending(delta.finish_reason, delta.stop_text)
            yield MessageDelta(type="message_delta", delta=ending, usage=self._usage())
            yield MessageStop(type="message_stop")

    def _message(self, content: list[OutputText], ending: Ending | None) -> Message:
        return Message(
            id=self._id,
            type="message",
            role="assistant",
            model=self.model_name,
            content=content,
            stop_reason=ending.stop_reason if ending else None,
            stop_sequence=ending.stop_sequence if ending else None,
            usage=self._usage(),
        )

    def _ending(self, reason: FinishReason | None, stop_text: str | None) -> Ending:
        stop_reason: StopReason = "end_turn"
        if stop_text is not None:
            stop_reason = "stop_sequence"
        elif reason is FinishReason.LENGTH:
            stop_reason = "model_context_window_exceeded" if self.is_cut else "max_tokens"
        return Ending(stop_reason=stop_reason, stop_sequence=stop_text)

    def _usage(self) -> MessageUsage:
        return MessageUsage(
            input_tokens=self.num_prompt_tokens - self._num_cached_tokens,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=self._num_cached_tokens,
            output_tokens=self._num_tokens,
        )


def _block(text: str) -> OutputText:
    return OutputText(type="text", text=text, citations=None)
