"""Reads an upload's multipart form (RFC 7578) in pieces, without a temporary copy of its file.

FastAPI's forms would write the whole file to the system's folder for temporary files first, which
may be small or in memory, and could refuse it only then.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from src.errors import ClientDisconnectedError, InvalidRequestError

MAX_FIELD_BYTES = 4096
FLUSH_BYTES = 2**20
MAX_FILENAME = 255
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class Sink(Protocol):
    """Receives the bytes of the file."""

    async def write(self, data: bytes) -> None:
        """Appends bytes."""


@dataclass(slots=True)
class UploadForm:
    """Fields of a form, and the name of its file; None if the form has no file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


@dataclass(slots=True)
class _Part:
    """The part that is being read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


class FormReader:
    """Parses one form.

    Args:
        content_type: header of the request.
        sink: receives the file.

    Raises:
        InvalidRequestError: the request has no multipart form.
    """

    def __init__(self, content_type: str, sink: Sink) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequestError("The body must be a form, multipart/form-data.", ())
        self._sink = sink
        self._part = _Part()
        self._pending = bytearray()  # bytes of the file
        self._is_whole = False
        self.form = UploadForm()
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise _malformed() from None

    async def read(self, chunks: AsyncIterator[bytes]) -> UploadForm:
        """Returns the form once all of it was read.

        Raises:
            InvalidRequestError: it is malformed.
        """
        async for chunk in chunks:
            try:
                self._parser.write(chunk)
            except FormParserError:
                raise _malformed() from None
            if len(self._pending) >= FLUSH_BYTES:
                await self._flush()
        if not self._is_whole:
            raise _malformed()
        await self._flush()
        return self.form

    async def _flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        await self._sink.write(data)

    def _begin_part(self) -> None:
        self._part = _Part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        part.headers[bytes(part.header_name).lower()] = bytes(part.header_value)
        part.header_name, part.header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        part = self._part
        _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        part.is_file = part.name == "file"
        if part.is_file:
            if self.form.filename is not None:
                raise InvalidRequestError("The form has more than one file.", ("file",))
            filename = options.get(b"filename", b"file").decode("utf-8", "replace")
            self.form.filename = filename.replace("\x00", "")[:MAX_FILENAME] or "file"
        elif part.name not in FIELDS:
            message = "There is no such field; /docs lists those that there are"
            raise InvalidRequestError(message, (part.name,))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self._pending += data[start:end]
            return
        self._part.value += data[start:end]
        if len(self._part.value) > MAX_FIELD_BYTES:
            raise InvalidRequestError("The value is too long.", (self._part.name,))

    def _end_part(self) -> None:
        if not self._part.is_file:
            self.form.fields[self._part.name] = self._part.value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_whole = True


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("The form is malformed or incomplete.", ())


async def read_form(request: Request, sink: Sink) -> UploadForm:
    """Reads the form of a request; raises as `FormReader` does."""
    reader = FormReader(request.headers.get("content-type", ""), sink)
    try:
        return await reader.read(request.stream())
    except ClientDisconnect:
        raise ClientDisconnectedError from None
