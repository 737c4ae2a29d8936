"""uvicorn's HTTP connection, which bounds what a client may do to it before and beside the app.

uvicorn waits for ever for a client that sends its request byte by byte, that has stopped reading,
or that connects and says nothing; and it takes a head of any size. Here a request has to come in
time, its head has a largest size, and who reads nothing is broken off. What is refused here no
middleware sees; it gets the answer that the API it was sent to would have given.
"""

import asyncio
import json
import logging
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from src.config import Settings
from src.limits.client_address import plain_address
from src.middleware.error_body import REQUEST_ID, error_body
from src.middleware.request_log import REQUEST_ID_HEADER, request_id_of
from src.middleware.route_policy import ROUTE_POLICY, RoutePolicies
from src.middleware.security_headers import HEADERS
from src.server.http_parser import RequestParser

logger = logging.getLogger(__name__)

EXTENSION = "connection"
"""Our entry among the extensions of an ASGI scope."""

NUM_BETWEEN = len(b": \r\n")
"""Bytes of each header's line beside its name and value."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client may do.

    Args:
        max_header_bytes: of a request's line and headers.
        receive_timeout: seconds for a whole request, from its first byte or the connection's begin.
        send_timeout: seconds in which it has to read something of what waits for it.
    """

    max_header_bytes: int
    receive_timeout: float
    send_timeout: float


def connection_class(settings: Settings, policies: RoutePolicies) -> Any:
    """What uvicorn is to make connections with."""
    limits = ConnectionLimits(
        settings.max_header_bytes, settings.receive_timeout_seconds, settings.send_timeout_seconds
    )
    return partial(Connection, limits=limits, policies=policies)


class _HeadTooLargeError(Exception):
    """Raised to the parser, which then stops."""


class Connection(HttpToolsProtocol):
    """One client's connection.

    Args:
        limits: what the client may do.
        policies: the API family of each path, for error answers.
        arguments: uvicorn's own.
    """

    def __init__(
        self, *, limits: ConnectionLimits, policies: RoutePolicies, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.parser: RequestParser = RequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._limits = limits
        self._policies = policies
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._num_unsent = 0  # when it was last looked at
        self._begin_head()

    def _begin_head(self) -> None:
        self._is_in_head, self._has_begun = True, False
        self._num_received = 0  # bytes that came while the head was not whole
        self._num_head_bytes = 0  # of the head, as far as it is parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:  # as FORWARDED_ALLOW_IPS has it
            self.client = plain_address(self.client[0]), self.client[1]
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._receiving, self._sending):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._receiving is None:  # also for line ends between requests, which begin none
            self._await_request()
        self._num_received += len(data) if self._is_in_head else 0
        super().data_received(data)
        if self._is_in_head and self._num_received > self._limits.max_header_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun = True
        if self._receiving is None:  # it came in one piece with the end of another
            self._await_request()
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + NUM_BETWEEN)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.is_offer:
            self._num_head_bytes = 0  # it is read again, and counted then
            return
        self._is_in_head = False
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            cycle: RequestResponseCycle = self.cycle
            cycle.send = partial(_send_unchunked, cycle)  # type: ignore[method-assign]

    def on_message_complete(self) -> None:
        if self.parser.is_offer:
            return
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
        self._begin_head()
        super().on_message_complete()

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self._limits.max_header_bytes:
            raise _HeadTooLargeError

    def send_400_response(self, msg: str) -> None:
        """What the parser does not understand, or was told to stop at."""
        if self._num_head_bytes > self._limits.max_header_bytes:
            self._refuse_head()
        else:
            self._refuse(400, "This is no HTTP that can be understood.")

    def _refuse_head(self) -> None:
        most = self._limits.max_header_bytes
        self._refuse(431, f"The request's line and headers are larger than {most} bytes.")

    def _await_request(self) -> None:
        timeout = self._limits.receive_timeout
        self._receiving = self.loop.call_later(timeout, self._receive_in_time)

    def _receive_in_time(self) -> None:
        """The time is over in which a request should have come."""
        if self._is_answering:
            self._await_request()
        elif self._is_in_head and not self._has_begun:
            self.transport.close()
        else:
            seconds = self._limits.receive_timeout
            self._refuse(408, f"The request did not come within {seconds:g} seconds.")

    @property
    def _is_answering(self) -> bool:
        """Whether an earlier request of this connection has come whole, and has no answer yet."""
        cycle: RequestResponseCycle | None = self.cycle
        is_awaited = cycle is not None and not cycle.response_complete and not cycle.more_body
        return bool(self.pipeline) or is_awaited

    @property
    def _can_refuse(self) -> bool:
        """Whether an answer can be written: it would be no piece of another, and no second one."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or not cycle.response_started:
            return not self.pipeline
        return self._is_in_head and cycle.response_complete

    def _refuse(self, status_code: int, message: str) -> None:
        """Answers in the app's place, if that can be, and closes."""
        if self.transport.is_closing():
            return
        if self._can_refuse:
            self.transport.write(self._answer(status_code, message))
        logger.info("refused", extra={"status": status_code, "reason": message})
        self.transport.close()
        self._watch_sending()

    def _answer(self, status_code: int, message: str) -> bytes:
        headers, path = ([], "") if not self._has_begun else (self.headers, self._path)
        scope: dict[str, Any] = {"type": "http", "headers": headers, "path": path}
        scope[ROUTE_POLICY] = self._policies.find(path)
        scope[REQUEST_ID] = request_id = request_id_of(scope)
        body = json.dumps(error_body(scope, status_code, message)).encode()
        lines = [
            *self.server_state.default_headers,
            *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % line for line in lines)
        return STATUS_LINE[status_code] + head + b"\r\n" + body

    @property
    def _path(self) -> str:
        """Of the request that comes, as far as it is known."""
        return self.url.partition(b"?")[0].decode("latin-1")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_sending()

    def _watch_sending(self) -> None:
        """Breaks the connection off if nothing of what waits is read for a while."""
        if self._sending is None and self._count_unsent():
            self._num_unsent = self._count_unsent()
            self._sending = self.loop.call_later(self._limits.send_timeout, self._send_in_time)

    def _send_in_time(self) -> None:
        self._sending = None
        if 0 < self._num_unsent <= self._count_unsent():
            logger.info("the client has stopped reading: its connection is broken off")
            self.transport.abort()
        else:
            self._watch_sending()

    def _count_unsent(self) -> int:
        return self.transport.get_write_buffer_size()


async def _send_unchunked(cycle: RequestResponseCycle, message: ASGISendEvent) -> None:
    """Sends a part of an answer of unknown length to a client of HTTP/1.0.

    It knows no chunks: the body ends with the connection, which uvicorn closes after each answer.
    """
    if message["type"] == "http.response.start" and not cycle.response_started:
        names = {name.lower() for name, _ in message.get("headers", ())}
        if b"content-length" not in names:
            cycle.chunked_encoding = False
            cycle.expected_content_length = sys.maxsize  # as far as uvicorn checks it
    elif (
        message["type"] == "http.response.body"
        and not message.get("more_body", False)
        and cycle.expected_content_length > sys.maxsize // 2
    ):
        cycle.expected_content_length = len(message.get("body", b""))
    await RequestResponseCycle.send(cycle, message)


def abort_connection(scope: MutableMapping[str, Any]) -> None:
    """Breaks a request's connection off; what was not sent yet is lost.

    Under another server than `python -m src.main` starts, it stays until the client leaves.
    """
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    if extension is not None:
        extension["abort"]()
