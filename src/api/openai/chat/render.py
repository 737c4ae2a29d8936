"""Generations in the words of `/v1/chat/completions`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
from src.api.openai.common import Usage, UsageCount, answer_head, token_logprob
from src.core.outputs import Generation, TextDelta
from src.engine import logprobs
from src.engine import request as engine_request
from src.inference import InferenceEngine
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.parser import (
    Answer,
    ArgumentsDelta,
    CallStarted,
    ContentDelta,
    Event,
    TextReader,
    ToolCallParser,
)


@dataclass(slots=True)
class ChatRenderer:
    """Makes the answer to one request, whole or in chunks.

    Args:
        engine: knows how tokens are written.
        body: the request.
        written: how the model writes calls of tools, if it may.
        is_shaped: what is no call has the shape that is asked for.
    """

    engine: InferenceEngine
    body: ChatCompletionRequest
    written: ToolCallFormat | None = None
    is_shaped: bool = False
    _head: dict[str, Any] = field(init=False)
    _readers: dict[int, TextReader | ToolCallParser] = field(default_factory=dict)  # of choices

    def __post_init__(self) -> None:
        kind = "chat.completion.chunk" if self.body.stream else "chat.completion"
        self._head = answer_head("chatcmpl", kind, self.engine)
        if self.body.includes_usage:
            self._head["usage"] = None

    def whole(self, generation: Generation, count: UsageCount) -> ChatCompletion:
        """The answer without a stream."""
        choices = [
            ChatChoice(
                index=index,
                message=self._message(index, one.text),
                logprobs=self._logprobs(one.logprobs),
                finish_reason=self._finish_reason(index, one.finish_reason) or "length",
            )
            for index, one in enumerate(generation.completions)
        ]
        return ChatCompletion(**self._head | {"choices": choices, "usage": count.usage()})

    def _message(self, index: int, text: str) -> AnswerMessage:
        answer, reader = Answer(), self._reader(index)
        for event in [*reader.push(text), *reader.finish()]:
            answer.add(event)
        if not answer.calls:
            return AnswerMessage(role="assistant", content=answer.content, refusal=None)
        calls = [
            AnswerCall(
                id=call.call_id,
                type="function",
                function=Function(name=call.name, arguments=call.arguments),
            )
            for call in answer.calls
        ]
        content = answer.content or None
        return AnswerMessage(role="assistant", content=content, refusal=None, tool_calls=calls)

    def chunks(self, delta: TextDelta) -> Iterator[ChatCompletionChunk]:
        """The role, what is said and called, and the end, each in chunks of its own."""
        if not self._readers:
            yield from self._beginnings()
        reader = self._reader(delta.index)
        events = reader.push(delta.text)
        if delta.finish_reason is not None:
            events += reader.finish()
        news = [_delta(event) for event in events]
        found = self._logprobs(delta.logprobs) if delta.logprobs else None
        if found is not None and not news:  # of text that is held back
            news.append(Delta())
        for number, new in enumerate(news):
            yield self._chunk(delta.index, new, None if number else found, None)
        reason = self._finish_reason(delta.index, delta.finish_reason)
        if reason is not None:
            yield self._chunk(delta.index, Delta(), None, reason)

    def _beginnings(self) -> Iterator[ChatCompletionChunk]:
        """The role of each choice, in their order: OpenAI's client fails on any other first one."""
        content = None if self.body.must_call else ""
        for index in range(self.body.num_choices):
            self._reader(index)
            first = Delta(role="assistant", content=content, refusal=None)
            yield self._chunk(index, first, None, None)

    def _reader(self, index: int) -> TextReader | ToolCallParser:
        """Who reads a choice's text."""
        if index not in self._readers:
            self._readers[index] = (
                ToolCallParser(
                    self.written, is_forced=self.body.must_call, is_shaped=self.is_shaped
                )
                if self.written
                else TextReader()
            )
        return self._readers[index]

    def _finish_reason(
        self, index: int, reason: engine_request.FinishReason | None
    ) -> FinishReason | None:
        if reason is None:
            return None
        if reason is not engine_request.FinishReason.STOP:
            return "length"
        # As OpenAI has it: who has named the tool is not told that there is a call.
        is_call = self._reader(index).num_calls and not self.body.has_named_tool
        return "tool_calls" if is_call else "stop"

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head | {"choices": [], "usage": usage})

    def _chunk(
        self,
        index: int,
        delta: Delta,
        found: ChoiceLogprobs | None,
        reason: FinishReason | None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, logprobs=found, finish_reason=reason)
        return ChatCompletionChunk(**self._head | {"choices": [choice]})

    def _logprobs(self, positions: list[logprobs.PositionLogprobs]) -> ChoiceLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChoiceLogprobs(content=map(self._logprob, positions), refusal=None)

    def _logprob(self, position: logprobs.PositionLogprobs) -> ChatPositionLogprob:
        return ChatPositionLogprob(
            **token_logprob(self.engine, position.chosen),
            top_logprobs=[ChatLogprob(**token_logprob(self.engine, one)) for one in position.top],
        )


def _delta(event: Event) -> Delta:
    match event:
        case ContentDelta(text):
            return Delta(content=text)
        case CallStarted(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            call = CallDelta(index=index, id=call_id, type="function", function=function)
        case ArgumentsDelta(index, text):
            call = CallDelta(index=index, function=FunctionDelta(arguments=text))
    return Delta(tool_calls=[call])
