"""Streams of Server-Sent Events (WHATWG HTML, section 9.2)."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.types import Message, Send

from src.api.deps import while_connected
from src.api.errors import code_of, family_of, status_of
from src.api.family import Failure
from src.api.json_response import LARGE_ANSWER
from src.config import Settings
from src.core.outputs import TextDelta
from src.errors import ServiceError
from src.middleware.error_body import REQUEST_ID
from src.middleware.request_log import set_final_status
from src.server.connection import abort_connection

logger = logging.getLogger(__name__)

DONE = format_sse_event(data_str="[DONE]")
LINE_ENDS = {character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
HEADERS = {"X-Accel-Buffering": "no"}  # turns off response buffering in nginx


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Times of a stream in seconds.

    Args:
        send_timeout: maximum time to send one event.
        keep_alive: silence after which a ping is sent; 0 sends none.
    """

    send_timeout: float
    keep_alive: float = 0


def stream_times(settings: Settings) -> StreamTimes:
    """Returns the times that the settings give streams."""
    return StreamTimes(settings.send_timeout_seconds, settings.keep_alive_seconds)


class EventStream(EventSourceResponse):
    """Response that sends events, and closes their generator however the stream ends.

    A client that stops reading for `send_timeout` seconds is disconnected. Pings keep proxies from
    closing a silent connection.

    Args:
        request: the HTTP request.
        events: encoded events.
        times: timeouts.
    """

    def __init__(self, request: Request, events: AsyncGenerator[bytes], times: StreamTimes) -> None:
        super().__init__(events, headers=HEADERS)
        self._request = request
        self._events = events
        self._times = times

    async def stream_response(self, send: Send) -> None:
        sender = _Sender(send, self._times)
        pings = asyncio.ensure_future(sender.send_pings(family_of(self._request.scope).ping))
        async with aclosing(self._events):
            try:
                await super().stream_response(sender.send)
            except TimeoutError:
                logger.info("the client has stopped reading: its stream is aborted")
                abort_connection(self._request.scope)
            finally:
                pings.cancel()


class _Sender:
    """Sends one ASGI message at a time; arguments as of `EventStream`."""

    def __init__(self, send: Send, times: StreamTimes) -> None:
        self._send = send
        self._times = times
        self._lock = asyncio.Lock()
        self._sent_at = time.monotonic()
        self._is_over = False

    async def send(self, message: Message) -> None:
        """Sends a message; raises TimeoutError if the client does not read it in time."""
        async with self._lock, asyncio.timeout(self._times.send_timeout):
            await self._send(message)
            self._sent_at = time.monotonic()
            self._is_over = not message.get("more_body", True)

    async def send_pings(self, ping: bytes) -> None:
        """Sends a ping after each silence, until the stream is over or its client has left."""
        keep_alive = self._times.keep_alive
        while keep_alive and not self._is_over:
            left = self._sent_at + keep_alive - time.monotonic()
            if left > 0 or self._lock.locked():
                await asyncio.sleep(max(left, keep_alive / 10))
                continue
            try:
                await self.send({"type": "http.response.body", "body": ping, "more_body": True})
            except (OSError, TimeoutError):  # the next event reports it
                return


async def stream_events(
    request: Request,
    deltas: AsyncGenerator[TextDelta],
    render: Callable[[TextDelta], Iterable[BaseModel]],
    times: StreamTimes,
    *,
    named: bool = False,
    render_failure: Callable[[Failure], BaseModel] | None = None,
    render_end: Callable[[], Iterable[BaseModel]] = tuple,
    size_of: Callable[[TextDelta], int] = lambda delta: delta.size,
) -> EventStream:
    """Returns a stream with events for each delta, once the first delta exists or silence is long.

    A failure before that raises, so the answer has an error status. A later failure is reported by
    the last event.

    Args:
        request: the HTTP request.
        deltas: generated text; at least one delta.
        render: creates the events of a delta, possibly none.
        times: as of `EventStream`.
        named: each event is named by its `type`, and the last one ends the stream; else `[DONE]`
            does.
        render_failure: creates the event that reports a failure; None is the API family's event.
        render_end: creates the events after those of the last delta.
        size_of: approximate size in bytes of a delta's events; large ones are rendered in a thread.

    Raises:
        ServiceError: generation fails before the first delta.
        ClientDisconnectedError: the client has disconnected.
    """
    first = asyncio.ensure_future(_next(deltas))
    try:
        await while_connected(request, _wait(first, times.keep_alive))
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        raise
    writer = _Writer(request, named, render_failure)
    renderer = _Renderer(writer, render, size_of)
    return EventStream(request, _events(renderer, first, deltas, render_end), times)


async def _next(deltas: AsyncGenerator[TextDelta]) -> TextDelta:
    return await anext(deltas)


async def _wait(first: asyncio.Future[TextDelta], keep_alive: float) -> None:
    """Waits for the first delta, but no longer than the client may go without headers.

    Raises:
        ServiceError: generation fails in this time.
    """
    done, _ = await asyncio.wait([first], timeout=keep_alive or None)
    for future in done:
        future.result()


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
    first: asyncio.Future[TextDelta],
    deltas: AsyncGenerator[TextDelta],
    render_end: Callable[[], Iterable[BaseModel]],
) -> AsyncGenerator[bytes]:
    writer = renderer.writer
    try:
        async with aclosing(deltas):
            for event in await renderer.events(await first):
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
