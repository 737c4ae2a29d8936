"""Rendering of generations as answers and events of `/v1/messages`."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from src.api.anthropic.request import MessageRequest
from src.api.anthropic.response import (
    AnswerTextBlock,
    AnswerThinkingBlock,
    AnswerToolUseBlock,
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    InputDeltaPart,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputBlock,
    OutputDetails,
    SignatureDeltaPart,
    StopReason,
    TextDeltaPart,
    ThinkingDeltaPart,
)
from src.api.chat.pipeline import DeltaReader, PreparedChat
from src.api.fields.timings import timings_fields
from src.core.outputs import Generation, TextDelta
from src.engine.request import FinishReason
from src.tool_calling.parser import (
    ArgumentsDelta,
    CallStarted,
    ContentDelta,
    Event,
    ReasoningDelta,
)


@dataclass(slots=True)
class MessageRenderer:
    """Renders the answer to one request, whole or in events.

    Args:
        body: the request's wire model.
        chat: the prepared request.
    """

    body: MessageRequest
    chat: PreparedChat
    _reader: DeltaReader = field(init=False)
    _id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    _num_cached_tokens: int = 0
    _num_tokens: int = 0
    _num_reasoning_tokens: int = 0
    _has_begun: bool = False
    _num_blocks: int = 0
    _block_type: str = ""  # of the last block
    _thought: str = ""

    def __post_init__(self) -> None:
        self._reader = DeltaReader(self.chat.create_reader())

    def whole(self, generation: Generation) -> Message:
        """Returns the whole answer."""
        (completion,) = generation.completions
        self._num_cached_tokens = generation.num_cached_tokens
        self._num_tokens = completion.num_tokens
        self._num_reasoning_tokens = completion.num_reasoning_tokens
        answer = self._reader.read_all(completion)
        blocks: list[OutputBlock] = [
            _call(call.call_id, call.name, _parsed(call.arguments)) for call in answer.calls
        ]
        if answer.content or not (blocks or answer.reasoning):
            blocks.insert(0, _text(answer.content))
        if answer.reasoning:
            shown = "" if self._omits_thought else answer.reasoning
            blocks.insert(0, _thinking(shown, _signature(answer.reasoning)))
        return self._message(blocks, self._ending(completion.finish_reason, completion.stop_text))

    def events(self, delta: TextDelta) -> Iterator[BaseModel]:
        """Yields the events of a delta; the first begins the message, the last ends it."""
        self._num_cached_tokens += delta.num_cached_tokens
        if not self._has_begun:
            self._has_begun = True
            yield MessageStart(type="message_start", message=self._message([], None))
        self._num_tokens += delta.num_tokens
        self._num_reasoning_tokens += delta.num_reasoning_tokens
        for event in self._reader.read(delta):
            yield from self._block_events(event)
        if delta.finish_reason is not None:
            yield from self._end(self._ending(delta.finish_reason, delta.stop_text))

    def _block_events(self, event: Event) -> Iterator[BaseModel]:
        part: TextDeltaPart | InputDeltaPart | ThinkingDeltaPart
        match event:
            case ReasoningDelta(text):
                if self._block_type != "thinking":
                    yield from self._start_block(_thinking("", ""))
                self._thought += text
                if self._omits_thought:
                    return
                part = ThinkingDeltaPart(type="thinking_delta", thinking=text)
            case ContentDelta(text):
                if self._block_type != "text":
                    yield from self._start_block(_text(""))
                part = TextDeltaPart(type="text_delta", text=text)
            case CallStarted(_, call_id, name):
                yield from self._start_block(_call(call_id, name, {}))
                return
            case ArgumentsDelta(_, text):
                part = InputDeltaPart(type="input_json_delta", partial_json=text)
        yield BlockDelta(type="content_block_delta", index=self._num_blocks - 1, delta=part)

    def _start_block(self, block: OutputBlock) -> Iterator[BaseModel]:
        """Ends the last block, if there is one, and begins another."""
        if self._num_blocks:
            yield from self._stop_block()
        index = self._num_blocks
        self._num_blocks += 1
        self._block_type = block.type
        yield BlockStart(type="content_block_start", index=index, content_block=block)

    def _stop_block(self) -> Iterator[BaseModel]:
        """Ends the last block; a thought gets its signature first."""
        index = self._num_blocks - 1
        if self._block_type == "thinking":
            part = SignatureDeltaPart(type="signature_delta", signature=_signature(self._thought))
            yield BlockDelta(type="content_block_delta", index=index, delta=part)
        yield BlockStop(type="content_block_stop", index=index)

    @property
    def _omits_thought(self) -> bool:
        thinking = self.body.thinking
        return thinking is not None and thinking.display == "omitted"

    def _end(self, ending: Ending) -> Iterator[BaseModel]:
        """Ends the message; an empty answer has one empty text block."""
        if not self._num_blocks:
            yield from self._start_block(_text(""))
        yield from self._stop_block()
        usage = self._usage()
        yield MessageDelta(type="message_delta", delta=ending, usage=usage, **self._timings())
        yield MessageStop(type="message_stop")

    def _message(self, content: list[OutputBlock], ending: Ending | None) -> Message:
        return Message(
            id=self._id,
            type="message",
            role="assistant",
            model=self.chat.engine.model_name,
            content=content,
            stop_reason=ending.stop_reason if ending else None,
            stop_sequence=ending.stop_sequence if ending else None,
            usage=self._usage(),
            **(self._timings() if ending else {}),
        )

    def _timings(self) -> dict[str, Any]:
        return timings_fields(self.body.timings, self.chat.context.timings)

    def _ending(self, reason: FinishReason | None, stop_text: str | None) -> Ending:
        stop_reason: StopReason = "tool_use" if self._reader.num_calls else "end_turn"
        if stop_text is not None:
            stop_reason = "stop_sequence"
        elif reason is FinishReason.LENGTH:
            max_tokens = self.chat.params.max_tokens
            is_full = self._num_tokens == max_tokens < self.body.max_tokens
            stop_reason = "model_context_window_exceeded" if is_full else "max_tokens"
        return Ending(stop_reason=stop_reason, stop_sequence=stop_text)

    def _usage(self) -> MessageUsage:
        details = {}
        if self.chat.params.thought is not None:
            num_tokens = self._num_reasoning_tokens
            details["output_tokens_details"] = OutputDetails(thinking_tokens=num_tokens)
        return MessageUsage(
            input_tokens=self.chat.num_prompt_tokens - self._num_cached_tokens,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=self._num_cached_tokens,
            output_tokens=self._num_tokens,
            **details,
        )


def _text(text: str) -> AnswerTextBlock:
    return AnswerTextBlock(type="text", text=text, citations=None)


def _thinking(text: str, signature: str) -> AnswerThinkingBlock:
    return AnswerThinkingBlock(type="thinking", thinking=text, signature=signature)


def _signature(thought: str) -> str:
    return hashlib.sha256(thought.encode("utf-8", "replace")).hexdigest()


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> AnswerToolUseBlock:
    tool_use_id = "toolu_" + call_id.removeprefix("call_")
    return AnswerToolUseBlock(type="tool_use", id=tool_use_id, name=name, input=arguments)


def _parsed(arguments: str) -> dict[str, Any]:
    """Returns a call's arguments; incomplete ones are empty."""
    try:
        parsed: dict[str, Any] = json.loads(arguments)
    except ValueError:
        return {}
    return parsed
