"""Generations in the words of `/v1/responses`: whole answers and events, by the same code."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from src.api.openai.answers import token_logprob
from src.api.openai.response.answer import (
    AnswerText,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    EventLogprob,
    EventTopLogprob,
    IncompleteDetails,
    InputTokensDetails,
    ItemEvent,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    PartEvent,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    Status,
    TextDeltaEvent,
    TextDoneEvent,
    TopLogprob,
)
from src.api.openai.response.protocol import ResponseRequest
from src.api.sse import Failure
from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason
from src.generation import Generation, TextDelta
from src.inference import InferenceEngine
from src.tool_call_parser import (
    ArgumentsDelta,
    CallStarted,
    ContentDelta,
    Event,
    TextReader,
    ToolCallParser,
)


@dataclass(slots=True)
class _Written:
    """An item of the output while it is written.

    Args:
        index: in the output.
        item_id: the item's.
        call: if it is one of a tool; else it is text.
        text: that it has, or its arguments.
        logprobs: of the text, if they are asked for.
    """

    index: int
    item_id: str
    call: CallStarted | None = None
    text: str = ""
    logprobs: list[OutputLogprob] = field(default_factory=list)

    def item(self, status: Status) -> OutputItem:
        """As it is told when it has this status; text that has just begun has no part yet."""
        if self.call is not None:
            return OutputCall(
                id=self.item_id,
                type="function_call",
                call_id=self.call.call_id,
                name=self.call.name,
                arguments=self.text,
                status=status,
            )
        return OutputMessage(
            id=self.item_id,
            type="message",
            role="assistant",
            status=status,
            content=[] if status == "in_progress" else [self.part()],
        )

    def part(self) -> OutputText:
        return OutputText(
            type="output_text", text=self.text, annotations=[], logprobs=list(self.logprobs)
        )

    def place(self) -> dict[str, Any]:
        """Where in the output it is."""
        return {"item_id": self.item_id, "output_index": self.index}


@dataclass(slots=True)
class ResponseRenderer:
    """Makes the answer to one request, whole or in events.

    Args:
        engine: knows how tokens are written.
        body: the request.
        num_prompt_tokens: of the conversation.
        reader: tells text and calls apart.
    """

    engine: InferenceEngine
    body: ResponseRequest
    num_prompt_tokens: int
    reader: TextReader | ToolCallParser
    _id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    _created_at: int = field(default_factory=lambda: int(time.time()))
    _num_events: int = 0
    _done: list[OutputItem] = field(default_factory=list)
    _last: _Written | None = None  # what is being written
    _num_tokens: int = 0
    _num_cached_tokens: int = 0

    def whole(self, generation: Generation) -> Response:
        """The answer without a stream: what all its events make up."""
        (one,) = generation.completions
        delta = TextDelta(
            0,
            one.text,
            one.num_tokens,
            one.finish_reason,
            one.logprobs,
            num_cached_tokens=generation.num_cached_tokens,
        )
        for _ in self.events(delta):
            pass
        return self._response(_status(one.finish_reason), self._done)

    def events(self, delta: TextDelta) -> Iterator[BaseModel]:
        """What a delta says: the first one begins the answer, the last one ends it."""
        if self._num_events == 0:
            for kind in ("response.created", "response.in_progress"):
                yield ResponseEvent(**self._head(kind), response=self._response("in_progress", []))
        self._num_tokens += delta.num_tokens
        self._num_cached_tokens += delta.num_cached_tokens
        read = self.reader.push(delta.text)
        if delta.finish_reason is not None:
            read += self.reader.finish()
        found = [self._logprob(one) for one in delta.logprobs] if self.body.include else []
        if found and not read:  # of text that is held back
            read = [ContentDelta("")]
        for event in read:
            yield from self._advance(event, found)
            found = []
        if delta.finish_reason is not None:
            yield from self._end(_status(delta.finish_reason))

    def failure(self, failure: Failure) -> ResponseEvent:
        """The last event of an answer that fails."""
        error = ResponseError(code="server_error", message=failure.message)
        output = self._done + ([self._last.item("incomplete")] if self._last else [])
        response = self._response("failed", output, error)
        return ResponseEvent(**self._head("response.failed"), response=response)

    def _advance(self, event: Event, found: list[OutputLogprob]) -> Iterator[BaseModel]:
        """What is new in an item, or a new item."""
        match event:
            case ContentDelta(text):
                if self._last is None or self._last.call is not None:
                    yield from self._begin_text()
                yield self._add_text(text, found)
            case CallStarted():
                yield from self._finish_last("completed")
                self._last = _Written(len(self._done), f"fc_{uuid.uuid4().hex}", event)
                yield self._item_event("response.output_item.added", "in_progress")
            case ArgumentsDelta(_, text):
                assert self._last is not None
                self._last.text += text
                yield ArgumentsDeltaEvent(
                    **self._head("response.function_call_arguments.delta"),
                    **self._last.place(),
                    delta=text,
                )

    def _begin_text(self) -> Iterator[BaseModel]:
        yield from self._finish_last("completed")
        self._last = _Written(len(self._done), f"msg_{uuid.uuid4().hex}")
        yield self._item_event("response.output_item.added", "in_progress")
        yield self._part_event("response.content_part.added")

    def _add_text(self, text: str, found: list[OutputLogprob]) -> TextDeltaEvent:
        assert self._last is not None
        self._last.text += text
        self._last.logprobs += found
        return TextDeltaEvent(
            **self._head("response.output_text.delta"),
            **self._last.place(),
            content_index=0,
            delta=text,
            logprobs=_for_events(found),
        )

    def _finish_last(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """Ends the item that is being written, if there is one."""
        last = self._last
        if last is None:
            return
        if last.call is not None:
            yield ArgumentsDoneEvent(
                **self._head("response.function_call_arguments.done"),
                **last.place(),
                arguments=last.text,
            )
        else:
            yield TextDoneEvent(
                **self._head("response.output_text.done"),
                **last.place(),
                content_index=0,
                text=last.text,
                logprobs=_for_events(last.logprobs),
            )
            yield self._part_event("response.content_part.done")
        yield self._item_event("response.output_item.done", status)
        self._done.append(last.item(status))
        self._last = None

    def _end(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """There is always an item, though nothing may have been said."""
        if self._last is None and not self._done:
            yield from self._begin_text()
        yield from self._finish_last(status)
        response = self._response(status, self._done)
        yield ResponseEvent(**self._head(f"response.{status}"), response=response)

    def _item_event(self, kind: str, status: Status) -> ItemEvent:
        assert self._last is not None
        item = self._last.item(status)
        return ItemEvent(**self._head(kind), output_index=self._last.index, item=item)

    def _part_event(self, kind: str) -> PartEvent:
        assert self._last is not None
        head, place = self._head(kind), self._last.place()
        return PartEvent(**head, **place, content_index=0, part=self._last.part())

    def _head(self, kind: str) -> dict[str, Any]:
        """The fields with which each event begins."""
        number = self._num_events
        self._num_events += 1
        return {"type": kind, "sequence_number": number}

    def _logprob(self, position: PositionLogprobs) -> OutputLogprob:
        return OutputLogprob(
            **token_logprob(self.engine, position.chosen),
            top_logprobs=[TopLogprob(**token_logprob(self.engine, one)) for one in position.top],
        )

    def _response(
        self,
        status: Literal["in_progress", "completed", "incomplete", "failed"],
        output: list[OutputItem],
        error: ResponseError | None = None,
    ) -> Response:
        body = self.body
        is_cut = status == "incomplete"
        return Response(
            id=self._id,
            object="response",
            created_at=self._created_at,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            background=False,
            error=error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=self.engine.model_name,
            output=list(output),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            prompt_cache_key=body.prompt_cache_key,
            safety_identifier=body.safety_identifier,
            service_tier="default",
            temperature=1 if body.temperature is None else body.temperature,
            text=AnswerText(format=_dumped(body.text_format)),
            tool_choice=_dumped(body.tool_choice or "auto"),
            tools=[_dumped(tool) for tool in body.tools or ()],
            top_logprobs=body.top_logprobs or 0,
            top_p=1 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=None if status == "in_progress" else self._usage(),
            user=body.user,
        )

    def _usage(self) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=self.num_prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=self._num_cached_tokens, cache_write_tokens=0
            ),
            output_tokens=self._num_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=self.num_prompt_tokens + self._num_tokens,
        )


def _status(reason: FinishReason | None) -> Literal["completed", "incomplete"]:
    return "completed" if reason is FinishReason.STOP else "incomplete"


def _dumped(asked: Any) -> Any:
    """A part of the request as it came."""
    if isinstance(asked, BaseModel):
        return asked.model_dump(by_alias=True, exclude_none=True)
    return asked


def _for_events(found: list[OutputLogprob]) -> list[EventLogprob]:
    """Events tell no bytes."""
    return [
        EventLogprob(
            token=position.token,
            logprob=position.logprob,
            top_logprobs=[
                EventTopLogprob(token=one.token, logprob=one.logprob)
                for one in position.top_logprobs
            ],
        )
        for position in found
    ]
