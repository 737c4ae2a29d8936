"""HTTP connection with deadlines and a bound on the head, which uvicorn does not have.

uvicorn waits forever for a client that sends its request byte by byte, stops reading, or connects
and stays silent; and it accepts a head of any size. Here a request has to arrive in time, its head
is bounded, and the connection of a client that stops reading is aborted. A request refused here
reaches no middleware; it gets the error body of the API that it was sent to.
"""

import asyncio
import json
import logging
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from src.config import Settings
from src.limits.client_address import plain_address
from src.middleware.error_body import REQUEST_ID, error_body
from src.middleware.request_log import REQUEST_ID_HEADER, request_id_of
from src.middleware.route_policy import ROUTE_POLICY, RoutePolicies
from src.middleware.security_headers import HEADERS
from src.server.http_parser import RequestParser

logger = logging.getLogger(__name__)

EXTENSION = "connection"
"""Key of this project's entry in the extensions of an ASGI scope."""

HEADER_OVERHEAD = len(b": \r\n")
"""Bytes of a header's line beside its name and value."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a connection.

    Args:
        max_header_bytes: size of a head, the request line and headers.
        receive_timeout: seconds for a whole request, from its first byte or the connection's begin.
        send_timeout: seconds in which the client has to read some of the bytes that wait for it.
    """

    max_header_bytes: int
    receive_timeout: float
    send_timeout: float


def connection_class(settings: Settings, policies: RoutePolicies) -> Any:
    """Returns the `http` argument of uvicorn's configuration."""
    limits = ConnectionLimits(
        settings.max_header_bytes, settings.receive_timeout_seconds, settings.send_timeout_seconds
    )
    return partial(Connection, limits=limits, policies=policies)


class _HeadTooLargeError(Exception):
    """Raised in a callback of the parser, which then stops."""


class Connection(HttpToolsProtocol):
    """One client's connection.

    Args:
        limits: limits of the connection.
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
        self._receive_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._num_unsent = 0  # bytes in the write buffer when the send timer started
        self._num_unanswered = 0  # requests with a whole head and no whole answer
        self._begin_head()

    def _begin_head(self) -> None:
        self._is_in_head, self._has_begun = True, False
        self._num_received = 0  # bytes that came while the head was not whole
        self._num_uploaded = 0  # bytes that came since the receive timer started
        self._num_head_bytes = 0  # of the head, as far as it is parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:  # the proxy's, where FORWARDED_ALLOW_IPS trusts one
            self.client = plain_address(self.client[0]), self.client[1]
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._receive_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._receive_timer is None:  # also for line ends between requests, which begin none
            self._await_request()
        self._num_received += len(data) if self._is_in_head else 0
        self._num_uploaded += len(data)
        super().data_received(data)
        if self._is_in_head and self._num_received > self._limits.max_header_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun = True
        if self._receive_timer is None:  # it came in one piece with the end of another
            self._await_request()
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + HEADER_OVERHEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.is_offer:
            self._num_head_bytes = 0  # the head is parsed again, and counted then
            return
        super().on_headers_complete()
        self._is_in_head = False  # not before: an invalid target fails above, and is refused
        self._num_unanswered += 1
        if self.parser.get_http_version() == "1.0":
            cycle: RequestResponseCycle = self.cycle
            cycle.send = partial(_send_unchunked, cycle)  # type: ignore[method-assign]

    def on_message_complete(self) -> None:
        if self.parser.is_offer:
            return
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None
        self._begin_head()
        super().on_message_complete()

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self._limits.max_header_bytes:
            raise _HeadTooLargeError

    def send_400_response(self, msg: str) -> None:
        """Refuses a request that the parser does not accept, or was stopped at."""
        if self._num_head_bytes > self._limits.max_header_bytes:
            self._refuse_head()
        else:
            self._refuse(400, "Malformed HTTP request.")

    def _refuse_head(self) -> None:
        max_bytes = self._limits.max_header_bytes
        self._refuse(431, f"The request line and headers are larger than {max_bytes} bytes.")

    def _await_request(self) -> None:
        timeout = self._limits.receive_timeout
        self._receive_timer = self.loop.call_later(timeout, self._on_receive_timeout)

    def _on_receive_timeout(self) -> None:
        if self._is_answering or self._is_uploading:
            self._num_uploaded = 0
            self._await_request()
        elif self._is_in_head and not self._has_begun:
            self.transport.close()
        else:
            seconds = self._limits.receive_timeout
            self._refuse(408, f"The request did not arrive within {seconds:g} seconds.")

    @property
    def _is_answering(self) -> bool:
        """An earlier request of this connection arrived whole and is not answered yet."""
        return self._num_unanswered > (0 if self._is_in_head else 1)

    @property
    def _is_uploading(self) -> bool:
        """A file is arriving, which may take any time while some of it arrives in each period."""
        is_upload = not self._is_in_head and self._policies.find(self._path).is_upload
        return is_upload and self._num_uploaded > 0

    @property
    def _can_refuse(self) -> bool:
        """An answer written now is neither a part of another nor a second one to its request."""
        if self._num_unanswered == 0:
            return self._is_in_head
        return self._num_unanswered == 1 and not self.cycle.response_started

    def _refuse(self, status_code: int, message: str) -> None:
        """Answers in the app's place, if that is possible, and closes the connection."""
        if self.transport.is_closing():
            return
        if self._can_refuse:
            self.transport.write(self._render_answer(status_code, message))
        logger.info("refused", extra={"status": status_code, "reason": message})
        self.transport.close()
        self._watch_sending()

    def _render_answer(self, status_code: int, message: str) -> bytes:
        headers, path = (self.headers, self._path) if self._has_begun else ([], "")
        scope: dict[str, Any] = {"type": "http", "headers": headers, "path": path}
        scope[ROUTE_POLICY] = self._policies.find(path)
        scope[REQUEST_ID] = request_id = request_id_of(scope)
        body = json.dumps(error_body(scope, status_code, message)).encode()
        fields = [
            *self.server_state.default_headers,
            *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
            (b"connection", b"close"),
        ]
        status_line = f"HTTP/1.1 {status_code} {HTTPStatus(status_code).phrase}\r\n".encode()
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        return status_line + head + b"\r\n" + body

    @property
    def _path(self) -> str:
        """Path of the request that arrives, as far as it is known."""
        return self.url.partition(b"?")[0].decode("latin-1")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def on_response_complete(self) -> None:
        self._num_unanswered -= 1
        super().on_response_complete()
        self._watch_sending()

    def _watch_sending(self) -> None:
        """Aborts the connection if the client reads nothing of the write buffer for a while."""
        if self._send_timer is None and self._count_unsent():
            self._num_unsent = self._count_unsent()
            self._send_timer = self.loop.call_later(
                self._limits.send_timeout, self._on_send_timeout
            )

    def _on_send_timeout(self) -> None:
        self._send_timer = None
        if 0 < self._num_unsent <= self._count_unsent():
            logger.info("the client has stopped reading: its connection is aborted")
            self.transport.abort()
        else:
            self._watch_sending()

    def _count_unsent(self) -> int:
        return self.transport.get_write_buffer_size()


async def _send_unchunked(cycle: RequestResponseCycle, message: Message) -> None:
    """Sends a part of an answer of unknown length to a client of HTTP/1.0.

    HTTP/1.0 has no chunked encoding: the body ends with the connection, which uvicorn closes after
    each answer to such a client.
    """
    if message["type"] == "http.response.start" and not cycle.response_started:
        names = {name.lower() for name, _ in message.get("headers", ())}
        if b"content-length" not in names:
            cycle.chunked_encoding = False
            cycle.expected_content_length = sys.maxsize  # no bound; uvicorn counts down from it
    elif (
        message["type"] == "http.response.body"
        and not message.get("more_body", False)
        and cycle.expected_content_length > sys.maxsize // 2
    ):
        cycle.expected_content_length = len(message.get("body", b""))
    await RequestResponseCycle.send(cycle, message)  # type: ignore[arg-type]


def abort_connection(scope: MutableMapping[str, Any]) -> None:
    """Aborts a request's connection; bytes that were not sent yet are lost.

    Has no effect under another server than the one that `python -m src.main` starts.
    """
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    if extension is not None:
        extension["abort"]()
