"""Output items of `/v1/responses` while they are generated, and their events."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from src.api.openai.responses.response import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    EventLogprob,
    EventTopLogprob,
    ItemEvent,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputReasoning,
    OutputText,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ReasoningPart,
    Status,
    TextDeltaEvent,
    TextDoneEvent,
)
from src.engine.logprobs import PositionLogprobs
from src.tool_calling.parser import ArgumentsDelta, CallStarted, ContentDelta, Event, ReasoningDelta

RenderLogprob = Callable[[PositionLogprobs], OutputLogprob]


@dataclass(slots=True)
class _OutputItem:
    """State of an output item.

    Args:
        index: position in the output.
        item_id: id of the item.
        call: tool call; None for a message or a thought.
        is_thought: the item is a thought.
        text: text of the message or of the thought, or arguments of the call.
        logprobs: log-probabilities of the text, if requested.
        status: status of the item.
    """

    index: int
    item_id: str
    call: CallStarted | None = None
    is_thought: bool = False
    text: str = ""
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    status: Status = "in_progress"

    def to_wire(self, status: Status, render: RenderLogprob) -> OutputItem:
        """Returns the wire model with a status; a message in progress has no parts."""
        if self.call is not None:
            return OutputCall(
                id=self.item_id,
                type="function_call",
                call_id=self.call.call_id,
                name=self.call.name,
                arguments=self.text,
                status=status,
            )
        if self.is_thought:
            content = [] if status == "in_progress" else [self.reasoning_part()]
            return OutputReasoning(
                id=self.item_id, type="reasoning", summary=[], content=content, status=status
            )
        return OutputMessage(
            id=self.item_id,
            type="message",
            role="assistant",
            status=status,
            content=[] if status == "in_progress" else [self.part(render)],
        )

    def part(self, render: RenderLogprob) -> OutputText:
        logprobs = map(render, self.logprobs)
        return OutputText(type="output_text", text=self.text, annotations=[], logprobs=logprobs)

    def reasoning_part(self) -> ReasoningPart:
        return ReasoningPart(type="reasoning_text", text=self.text)

    @property
    def is_message(self) -> bool:
        return self.call is None and not self.is_thought

    def location(self) -> dict[str, Any]:
        """Returns the fields of events that locate the item."""
        return {"item_id": self.item_id, "output_index": self.index}


class OutputWriter:
    """Builds items from the parsed events of an answer, and numbers the wire events.

    Args:
        render: renders the log-probabilities of a position.
    """

    def __init__(self, render: RenderLogprob) -> None:
        self._render = render
        self.num_events = 0
        self._done: list[_OutputItem] = []
        self._current: _OutputItem | None = None  # in progress

    def head(self, kind: str) -> dict[str, Any]:
        """Returns the first fields of an event."""
        number = self.num_events
        self.num_events += 1
        return {"type": kind, "sequence_number": number}

    @property
    def done(self) -> list[OutputItem]:
        """Complete items, as new objects: their lists of log-probabilities are generators."""
        return [item.to_wire(item.status, self._render) for item in self._done]

    @property
    def num_logprobs(self) -> int:
        """Number of positions with log-probabilities of the item in progress."""
        return len(self._current.logprobs) if self._current else 0

    def advance(self, event: Event, logprobs: list[PositionLogprobs]) -> Iterator[BaseModel]:
        """Adds a parsed event to the output, and yields the wire events.

        Args:
            event: thought, text, or a part of a tool call.
            logprobs: log-probabilities of the text's tokens.
        """
        match event:
            case ReasoningDelta(text):
                if self._current is None or not self._current.is_thought:
                    yield from self._begin_text(is_thought=True)
                yield self._add_thought(text)
            case ContentDelta(text):
                if self._current is None or not self._current.is_message:
                    yield from self._begin_text()
                yield self._add_text(text, logprobs)
            case CallStarted():
                yield from self._finish_current("completed")
                self._current = _OutputItem(len(self._done), f"fc_{uuid.uuid4().hex}", event)
                yield self._item_event("response.output_item.added", "in_progress")
            case ArgumentsDelta(_, text):
                assert self._current is not None
                self._current.text += text
                yield ArgumentsDeltaEvent(
                    **self.head("response.function_call_arguments.delta"),
                    **self._current.location(),
                    delta=text,
                )

    def finish(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """Ends the last item; an empty answer has one empty message."""
        if self._current is None and not self._done:
            yield from self._begin_text()
        yield from self._finish_current(status)

    def cut(self) -> list[OutputItem]:
        """Returns all items of an answer that fails, the last one incomplete."""
        current = [self._current.to_wire("incomplete", self._render)] if self._current else []
        return self.done + current

    def _begin_text(self, *, is_thought: bool = False) -> Iterator[BaseModel]:
        yield from self._finish_current("completed")
        item_id = f"{'rs' if is_thought else 'msg'}_{uuid.uuid4().hex}"
        self._current = _OutputItem(len(self._done), item_id, is_thought=is_thought)
        yield self._item_event("response.output_item.added", "in_progress")
        yield self._part_event("response.content_part.added")

    def _add_thought(self, text: str) -> ReasoningDeltaEvent:
        assert self._current is not None
        self._current.text += text
        return ReasoningDeltaEvent(
            **self.head("response.reasoning_text.delta"),
            **self._current.location(),
            content_index=0,
            delta=text,
        )

    def _add_text(self, text: str, logprobs: list[PositionLogprobs]) -> TextDeltaEvent:
        assert self._current is not None
        self._current.text += text
        self._current.logprobs += logprobs
        return TextDeltaEvent(
            **self.head("response.output_text.delta"),
            **self._current.location(),
            content_index=0,
            delta=text,
            logprobs=self._event_logprobs(logprobs),
        )

    def _finish_current(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """Ends the item in progress, if there is one."""
        item = self._current
        if item is None:
            return
        if item.call is not None:
            yield ArgumentsDoneEvent(
                **self.head("response.function_call_arguments.done"),
                **item.location(),
                arguments=item.text,
            )
        elif item.is_thought:
            yield ReasoningDoneEvent(
                **self.head("response.reasoning_text.done"),
                **item.location(),
                content_index=0,
                text=item.text,
            )
            yield self._part_event("response.content_part.done")
        else:
            yield TextDoneEvent(
                **self.head("response.output_text.done"),
                **item.location(),
                content_index=0,
                text=item.text,
                logprobs=self._event_logprobs(item.logprobs),
            )
            yield self._part_event("response.content_part.done")
        yield self._item_event("response.output_item.done", status)
        item.status = status
        self._done.append(item)
        self._current = None

    def _item_event(self, kind: str, status: Status) -> ItemEvent:
        assert self._current is not None
        item = self._current.to_wire(status, self._render)
        return ItemEvent(**self.head(kind), output_index=self._current.index, item=item)

    def _part_event(self, kind: str) -> PartEvent:
        assert self._current is not None
        head, location = self.head(kind), self._current.location()
        is_thought = self._current.is_thought
        part = self._current.reasoning_part() if is_thought else self._current.part(self._render)
        return PartEvent(**head, **location, content_index=0, part=part)

    def _event_logprobs(self, positions: list[PositionLogprobs]) -> Iterator[EventLogprob]:
        return map(_for_event, map(self._render, positions))


def _for_event(position: OutputLogprob) -> EventLogprob:
    """Drops the bytes, which events do not have."""
    return EventLogprob(
        token=position.token,
        logprob=position.logprob,
        top_logprobs=[
            EventTopLogprob(token=top.token, logprob=top.logprob) for top in position.top_logprobs
        ],
    )
