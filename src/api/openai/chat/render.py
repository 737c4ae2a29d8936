"""Rendering of generations as answers and chunks of `/v1/chat/completions`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from src.api.chat.pipeline import DeltaReader, PreparedChat
from src.api.fields.priority import used_tier
from src.api.fields.timings import timings_fields
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.chat.response import (
    AnswerCall,
    AnswerMessage,
    CallDelta,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprob,
    ChatPositionLogprob,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    Function,
    FunctionDelta,
)
from src.api.openai.common import UsageCount, answer_head, token_logprob
from src.config import ReasoningField
from src.core.outputs import Completion, Generation, TextDelta
from src.engine import logprobs
from src.engine import request as engine_request
from src.tool_calling.parser import (
    ArgumentsDelta,
    CallStarted,
    ContentDelta,
    Event,
    ReasoningDelta,
)

REASONING_NAMES: dict[ReasoningField, tuple[str, ...]] = {
    "both": ("reasoning_content", "reasoning"),
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "none": (),
}
"""Fields of a message that hold its thought, by REASONING_FIELD."""


@dataclass(slots=True)
class ChatRenderer:
    """Renders the answer to one request, whole or in chunks.

    Args:
        body: the request's wire model.
        chat: the prepared request.
        reasoning_field: REASONING_FIELD.
    """

    body: ChatCompletionRequest
    chat: PreparedChat
    reasoning_field: ReasoningField = "both"
    _head: dict[str, Any] = field(init=False)
    _readers: dict[int, DeltaReader] = field(default_factory=dict)  # by index of the choice

    def __post_init__(self) -> None:
        kind = "chat.completion.chunk" if self.body.stream else "chat.completion"
        self._head = answer_head("chatcmpl", kind, self.chat.engine)
        if self.body.service_tier is not None:
            self._head["service_tier"] = used_tier()
        if self.body.includes_usage:
            self._head["usage"] = None

    def whole(self, generation: Generation, count: UsageCount) -> ChatCompletion:
        """Returns the whole answer."""
        choices = [
            ChatChoice(
                index=index,
                message=self._message(index, completion),
                logprobs=self._logprobs(completion.logprobs),
                finish_reason=self._finish_reason(index, completion.finish_reason) or "length",
            )
            for index, completion in enumerate(generation.completions)
        ]
        fields = timings_fields(self.body.timings, self.chat.context.timings)
        return ChatCompletion(**self._head, choices=choices, **{"usage": count.usage()} | fields)

    def _message(self, index: int, completion: Completion) -> AnswerMessage:
        answer = self._reader(index).read_all(completion)
        fields = self._reasoning_fields(answer.reasoning)
        if not answer.calls:
            return AnswerMessage(role="assistant", content=answer.content, refusal=None, **fields)
        fields["tool_calls"] = [
            AnswerCall(
                id=call.call_id,
                type="function",
                function=Function(name=call.name, arguments=call.arguments),
            )
            for call in answer.calls
        ]
        content = answer.content or None
        return AnswerMessage(role="assistant", content=content, refusal=None, **fields)

    def _reasoning_fields(self, text: str) -> dict[str, Any]:
        """Returns the fields of a message or a delta that hold its part of the thought."""
        names = REASONING_NAMES[self.reasoning_field]
        return dict.fromkeys(names, text) if text else {}

    def chunks(self, delta: TextDelta) -> Iterator[ChatCompletionChunk]:
        """Yields chunks of a delta; role, thought, text, calls and end have separate ones."""
        if not self._readers:
            yield from self._first_chunks()
        events = self._reader(delta.index).read(delta)
        parts = [part for event in events if (part := self._delta(event)) is not None]
        rendered = self._logprobs(delta.logprobs) if delta.logprobs else None
        if rendered is not None and not parts:  # the parser holds the text back
            parts.append(Delta())
        for number, part in enumerate(parts):
            yield self._chunk(delta.index, part, None if number else rendered, None)
        reason = self._finish_reason(delta.index, delta.finish_reason)
        if reason is not None:
            yield self._chunk(delta.index, Delta(), None, reason)

    def _first_chunks(self) -> Iterator[ChatCompletionChunk]:
        """Yields the role of each choice, in order, which OpenAI's client requires."""
        content = None if self.chat.must_call else ""
        for index in range(self.body.num_choices):
            self._reader(index)
            first = Delta(role="assistant", content=content, refusal=None)
            yield self._chunk(index, first, None, None)

    def _reader(self, index: int) -> DeltaReader:
        if index not in self._readers:
            self._readers[index] = DeltaReader(self.chat.create_reader())
        return self._readers[index]

    def _finish_reason(
        self, index: int, reason: engine_request.FinishReason | None
    ) -> FinishReason | None:
        if reason is None:
            return None
        if reason is not engine_request.FinishReason.STOP:
            return "length"
        # OpenAI reports `stop` for a call of the tool that the request names.
        is_call = self._reader(index).num_calls and not self.body.has_named_tool
        return "tool_calls" if is_call else "stop"

    def end_chunk(self, fields: dict[str, Any]) -> ChatCompletionChunk:
        """Returns the last chunk, which has fields of the whole answer and no choices."""
        return ChatCompletionChunk(**self._head | {"choices": []} | fields)

    def _chunk(
        self,
        index: int,
        delta: Delta,
        rendered: ChoiceLogprobs | None,
        reason: FinishReason | None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, logprobs=rendered, finish_reason=reason)
        return ChatCompletionChunk(**self._head | {"choices": [choice]})

    def _logprobs(self, positions: list[logprobs.PositionLogprobs]) -> ChoiceLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChoiceLogprobs(content=map(self._logprob, positions), refusal=None)

    def _logprob(self, position: logprobs.PositionLogprobs) -> ChatPositionLogprob:
        engine = self.chat.engine
        return ChatPositionLogprob(
            **token_logprob(engine, position.chosen),
            top_logprobs=[ChatLogprob(**token_logprob(engine, token)) for token in position.top],
        )

    def _delta(self, event: Event) -> Delta | None:
        """Returns the delta of an event; None for a thought that is left out."""
        if isinstance(event, ReasoningDelta):
            fields = self._reasoning_fields(event.text)
            return Delta(**fields) if fields else None
        return _content_delta(event)


def _content_delta(event: ContentDelta | CallStarted | ArgumentsDelta) -> Delta:
    match event:
        case ContentDelta(text):
            return Delta(content=text)
        case CallStarted(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            call = CallDelta(index=index, id=call_id, type="function", function=function)
        case ArgumentsDelta(index, text):
            call = CallDelta(index=index, function=FunctionDelta(arguments=text))
    return Delta(tool_calls=[call])
