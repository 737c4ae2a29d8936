"""Answers that are sent as they are made: Server-Sent Events (WHATWG HTML, section 9.2)."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.types import Message, Send

from src.api.deps import while_connected
from src.api.exception_handlers import code_of, status_of
from src.errors import ServiceError
from src.models import StreamError, StreamErrorEvent
from src.ops.connection import abort_connection
from src.ops.error_body import error_body, speaks_openai
from src.ops.middleware import set_final_status

T = TypeVar("T")

logger = logging.getLogger(__name__)

DONE = format_sse_event(data_str="[DONE]")
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may hold it back


class EventStream(EventSourceResponse):
    """Sends events; what makes them is closed whatever ends the stream.

    Args:
        request: that they answer.
        events: as they go over the wire.
        send_timeout: seconds that the client may take to make room for the next one.
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
                logger.info("the client has stopped reading: its stream is broken off")
                abort_connection(self._request.scope)


async def stream_events(
    request: Request,
    items: AsyncGenerator[T],
    render: Callable[[T], BaseModel | None],
    send_timeout: float,
) -> EventStream:
    """Answers with one event for each item, once the first is there.

    What fails before has a status of its own; what fails later is an event `error`, the last one.

    Args:
        request: is watched for the client's leave.
        items: what the stream is made of; at least one.
        render: makes an event of an item, or None if there is nothing to tell.
        send_timeout: as of `EventStream`.

    Raises:
        ServiceError: there will be no first item.
        ClientDisconnectedError: the client has left.
    """
    first = await while_connected(request, _next(items))
    return EventStream(request, _events(request, first, items, render), send_timeout)


def _next(items: AsyncGenerator[T]) -> Coroutine[Any, Any, T]:
    async def get() -> T:
        return await anext(items)

    return get()


async def _events(
    request: Request,
    first: T,
    items: AsyncGenerator[T],
    render: Callable[[T], BaseModel | None],
) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(items):
            if (event := render(first)) is not None:
                yield _encode(event)
            async for item in items:
                if (event := render(item)) is not None:
                    yield _encode(event)
    except ServiceError as error:
        yield _encode_error(request, str(error), status_of(error), code_of(error))
    except Exception:
        logger.exception("unhandled error in a stream")
        yield _encode_error(request, "Internal server error.", 500, None)
    else:
        yield DONE


def _encode(event: BaseModel) -> bytes:
    return format_sse_event(data_str=event.model_dump_json(exclude_unset=True))


def _encode_error(request: Request, message: str, status_code: int, code: str | None) -> bytes:
    set_final_status(request.scope, status_code)
    if speaks_openai(request.scope):
        body = error_body(request.scope, status_code, message, code=code)
        return format_sse_event(data_str=json.dumps(body))
    event = StreamErrorEvent(error=StreamError(message=message, code=status_code))
    return format_sse_event(event="error", data_str=event.model_dump_json())
