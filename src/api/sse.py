"""Streams of Server-Sent Events (WHATWG HTML, section 9.2)."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.types import Message, Send

from src.api.deps import while_connected
from src.api.errors import code_of, family_of, status_of
from src.api.family import Failure
from src.api.json_response import LARGE_ANSWER
from src.core.outputs import TextDelta
from src.errors import ServiceError
from src.middleware.error_body import REQUEST_ID
from src.middleware.request_log import set_final_status
from src.server.connection import abort_connection

logger = logging.getLogger(__name__)

DONE = format_sse_event(data_str="[DONE]")
LINE_ENDS = {character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
HEADERS = {"X-Accel-Buffering": "no"}  # turns off response buffering in nginx


class EventStream(EventSourceResponse):
    """Response that sends events, and closes their generator however the stream ends.

    A client that stops reading for `send_timeout` seconds is disconnected.

    Args:
        request: the HTTP request.
        events: encoded events.
        send_timeout: maximum time in seconds to send one event.
    """

    def __init__(
        self, request: Request, events: AsyncGenerator[bytes], send_timeout: float
    ) -> None:
        super().__init__(events, headers=HEADERS)
        self._request = request
        self._events = events
        self._send_timeout = send_timeout

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout):
                await send(message)

        async with aclosing(self._events):
            try:
                await super().stream_response(send_in_time)
            except TimeoutError:
                logger.info("the client has stopped reading: its stream is aborted")
                abort_connection(self._request.scope)


async def stream_events(
    request: Request,
    deltas: AsyncGenerator[TextDelta],
    render: Callable[[TextDelta], Iterable[BaseModel]],
    send_timeout: float,
    *,
    named: bool = False,
    render_failure: Callable[[Failure], BaseModel] | None = None,
    render_end: Callable[[], Iterable[BaseModel]] = tuple,
    size_of: Callable[[TextDelta], int] = lambda delta: delta.size,
) -> EventStream:
    """Returns a stream with events for each delta, once the first delta exists.

    A failure before that raises, so the answer has an error status. A later failure is reported by
    the last event.

    Args:
        request: the HTTP request.
        deltas: generated text; at least one delta.
        render: creates the events of a delta, possibly none.
        send_timeout: as of `EventStream`.
        named: each event is named by its `type`, and the last one ends the stream; else `[DONE]`
            does.
        render_failure: creates the event that reports a failure; None is the API family's event.
        render_end: creates the events after those of the last delta.
        size_of: approximate size in bytes of a delta's events; large ones are rendered in a thread.

    Raises:
        ServiceError: generation fails before the first delta.
        ClientDisconnectedError: the client has disconnected.
    """
    first = await while_connected(request, _next(deltas))
    writer = _Writer(request, named, render_failure)
    renderer = _Renderer(writer, render, size_of)
    return EventStream(request, _events(renderer, first, deltas, render_end), send_timeout)


def _next(deltas: AsyncGenerator[TextDelta]) -> Coroutine[Any, Any, TextDelta]:
    async def get() -> TextDelta:
        return await anext(deltas)

    return get()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Encodes events; arguments as of `stream_events`."""

    request: Request
    named: bool
    render_failure: Callable[[Failure], BaseModel] | None

    def event(self, event: BaseModel) -> bytes:
        name = event.type if self.named else None  # type: ignore[attr-defined]
        return _format(name, event.model_dump_json(exclude_unset=True))

    def failure(self, failure: Failure) -> bytes:
        scope = self.request.scope
        set_final_status(scope, failure.status_code)
        if self.render_failure is not None:
            return self.event(self.render_failure(failure))
        family = family_of(scope)
        return _format(family.failure_event, family.failure_data(failure, scope.get(REQUEST_ID)))


def _format(name: str | None, data: str) -> bytes:
    """Encodes an event; escapes characters that some clients take for line ends in JSON."""
    for character, escape in LINE_ENDS.items():  # `str.translate` takes 20 times as long
        data = data.replace(character, escape)
    return format_sse_event(event=name, data_str=data)


@dataclass(frozen=True, slots=True)
class _Renderer:
    """Renders and encodes a delta's events; arguments as of `stream_events`."""

    writer: _Writer
    render: Callable[[TextDelta], Iterable[BaseModel]]
    size_of: Callable[[TextDelta], int]

    async def events(self, delta: TextDelta) -> Iterable[bytes]:
        events = map(self.writer.event, self.render(delta))
        if self.size_of(delta) <= LARGE_ANSWER:
            return events
        return await asyncio.to_thread(list, events)


async def _events(
    renderer: _Renderer,
    first: TextDelta,
    deltas: AsyncGenerator[TextDelta],
    render_end: Callable[[], Iterable[BaseModel]],
) -> AsyncGenerator[bytes]:
    writer = renderer.writer
    try:
        async with aclosing(deltas):
            for event in await renderer.events(first):
                yield event
            async for delta in deltas:
                for event in await renderer.events(delta):
                    yield event
            for end in render_end():
                yield writer.event(end)
    except ServiceError as error:
        yield writer.failure(Failure(str(error), status_of(error), code_of(error)))
    except Exception:
        logger.exception("unhandled error in a stream")
        yield writer.failure(Failure("Internal server error.", 500))
    else:
        if not writer.named:
            yield DONE
