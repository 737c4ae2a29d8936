"""The output of `/v1/responses` while it is written: items, and the events that tell of them."""

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
    OutputText,
    PartEvent,
    Status,
    TextDeltaEvent,
    TextDoneEvent,
)
from src.engine.logprobs import PositionLogprobs
from src.tool_calling.parser import ArgumentsDelta, CallStarted, ContentDelta, Event

RenderLogprob = Callable[[PositionLogprobs], OutputLogprob]


@dataclass(slots=True)
class _Written:
    """An item of the output while it is written.

    Args:
        index: in the output.
        item_id: the item's.
        call: if it is one of a tool; else it is text.
        text: that it has, or its arguments.
        logprobs: of the text, if they are asked for.
        status: in the output, once it is complete.
    """

    index: int
    item_id: str
    call: CallStarted | None = None
    text: str = ""
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    status: Status = "in_progress"

    def item(self, status: Status, render: RenderLogprob) -> OutputItem:
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
            content=[] if status == "in_progress" else [self.part(render)],
        )

    def part(self, render: RenderLogprob) -> OutputText:
        logprobs = map(render, self.logprobs)
        return OutputText(type="output_text", text=self.text, annotations=[], logprobs=logprobs)

    def place(self) -> dict[str, Any]:
        """Where in the output it is."""
        return {"item_id": self.item_id, "output_index": self.index}


class OutputWriter:
    """Puts items together from what is read of an answer, and numbers the answer's events.

    Args:
        render: writes a token's log-probability.
    """

    def __init__(self, render: RenderLogprob) -> None:
        self._render = render
        self.num_events = 0
        self._done: list[_Written] = []
        self._last: _Written | None = None  # what is being written

    def head(self, kind: str) -> dict[str, Any]:
        """The fields with which each event begins."""
        number = self.num_events
        self.num_events += 1
        return {"type": kind, "sequence_number": number}

    @property
    def done(self) -> list[OutputItem]:
        """The complete items, made anew: their lists of log-probabilities can be read but once."""
        return [one.item(one.status, self._render) for one in self._done]

    @property
    def num_logprobs(self) -> int:
        """Positions of the item that is being written."""
        return len(self._last.logprobs) if self._last else 0

    def advance(self, event: Event, found: list[PositionLogprobs]) -> Iterator[BaseModel]:
        """What is new in an item, or a new item; with log-probabilities if it is text."""
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
                    **self.head("response.function_call_arguments.delta"),
                    **self._last.place(),
                    delta=text,
                )

    def finish(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """Ends the last item. There is always one, though nothing may have been said."""
        if self._last is None and not self._done:
            yield from self._begin_text()
        yield from self._finish_last(status)

    def cut(self) -> list[OutputItem]:
        """All items of an answer that ends here and now."""
        last = [self._last.item("incomplete", self._render)] if self._last else []
        return self.done + last

    def _begin_text(self) -> Iterator[BaseModel]:
        yield from self._finish_last("completed")
        self._last = _Written(len(self._done), f"msg_{uuid.uuid4().hex}")
        yield self._item_event("response.output_item.added", "in_progress")
        yield self._part_event("response.content_part.added")

    def _add_text(self, text: str, found: list[PositionLogprobs]) -> TextDeltaEvent:
        assert self._last is not None
        self._last.text += text
        self._last.logprobs += found
        return TextDeltaEvent(
            **self.head("response.output_text.delta"),
            **self._last.place(),
            content_index=0,
            delta=text,
            logprobs=self._event_logprobs(found),
        )

    def _finish_last(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        """Ends the item that is being written, if there is one."""
        last = self._last
        if last is None:
            return
        if last.call is not None:
            yield ArgumentsDoneEvent(
                **self.head("response.function_call_arguments.done"),
                **last.place(),
                arguments=last.text,
            )
        else:
            yield TextDoneEvent(
                **self.head("response.output_text.done"),
                **last.place(),
                content_index=0,
                text=last.text,
                logprobs=self._event_logprobs(last.logprobs),
            )
            yield self._part_event("response.content_part.done")
        yield self._item_event("response.output_item.done", status)
        last.status = status
        self._done.append(last)
        self._last = None

    def _item_event(self, kind: str, status: Status) -> ItemEvent:
        assert self._last is not None
        item = self._last.item(status, self._render)
        return ItemEvent(**self.head(kind), output_index=self._last.index, item=item)

    def _part_event(self, kind: str) -> PartEvent:
        assert self._last is not None
        head, place = self.head(kind), self._last.place()
        return PartEvent(**head, **place, content_index=0, part=self._last.part(self._render))

    def _event_logprobs(self, positions: list[PositionLogprobs]) -> Iterator[EventLogprob]:
        return map(_for_event, map(self._render, positions))


def _for_event(position: OutputLogprob) -> EventLogprob:
    """Events tell no bytes."""
    return EventLogprob(
        token=position.token,
        logprob=position.logprob,
        top_logprobs=[
            EventTopLogprob(token=one.token, logprob=one.logprob) for one in position.top_logprobs
        ],
    )
