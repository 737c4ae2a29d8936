"""Reads a request's body as JSON, and refuses it before it is read: too large, or no JSON.

The refusal is raised from `receive` as an HTTPException, where the app reads the body, so that the
app's own handlers give it the shape of the route's errors.

Bodies of more than LARGE_BODY bytes are parsed and validated in a thread: the event loop answers
other requests meanwhile. A call of C code holds the GIL until it returns, in a thread too, so what
such calls cost is bounded: by the body's size, by MAX_JSON_DEPTH and by the number of containers.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import InvalidRequestError

LARGE_BODY = 2**16
"""Bytes; what has more is parsed in a thread, which takes 0.1 ms longer."""

BYTES_PER_CONTAINER = 16
"""A body may have an object or array for so many of MAX_BODY_BYTES: 131,072 in 2 MiB.

`[[],[],[]` has one for three bytes, and the garbage collector visits each of them.
"""

CLOSE = {"Connection": "close"}  # what is left of the body is not read

# What a backslash begins; the group is half of a character, as an escape without its other half.
ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")


class RequestBodyMiddleware:
    """Lets through JSON bodies up to a size.

    Args:
        app: what reads the body.
        max_body_bytes: larger ones get 413, chunked ones as soon as they pass it.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        num_bytes = 0

        async def receive_checked() -> Message:
            nonlocal num_bytes
            if num_bytes == 0:
                self._check_headers(headers)
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_checked, send)

    def _check_headers(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return  # no body; whether one is needed is the route's to say
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise HTTPException(
                415, "The body must be JSON; send the header Content-Type: application/json.", CLOSE
            )
        codings = {one.lower() for one in headers.getlist("content-encoding")} - {"identity"}
        codings |= {one.lower() for one in headers.getlist("transfer-encoding")} - {"chunked"}
        if codings:
            raise HTTPException(415, "The body must not be compressed.", CLOSE)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"The body is larger than {self._max_body_bytes} bytes; send less.", CLOSE
        )


@dataclass(frozen=True, slots=True)
class JSONLimits:
    """Bounds of a body's JSON.

    Args:
        max_depth: levels of objects and arrays.
        max_containers: objects and arrays.
    """

    max_depth: int
    max_containers: int


class JSONRequest(Request):
    """A request whose whole numbers are whole however they are written: JSON knows no integers.

    What a client writes for 5 depends on its language, and 5.0 is an integer to JSON Schema. Texts
    hold whole characters: half of one cannot be written in UTF-8, so no model could read it.

    Args:
        scope: of the request.
        receive: its body.
        limits: of the body.
        validate: makes the route's model of a large body, in a thread; FastAPI validates others.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        limits: JSONLimits,
        validate: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(scope, receive)
        self._limits = limits
        self._validate = validate

    @property
    def is_large(self) -> bool:
        """Whether the body, once it is read, is worth a thread."""
        return len(getattr(self, "_body", b"")) > LARGE_BODY

    async def json(self) -> Any:
        """Reads the body; a large one is validated too.

        Raises:
            InvalidRequestError: it has too many levels, objects or arrays.
            ValueError: it is no JSON.
            RequestValidationError: the route's model refuses it.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            if self.is_large:
                self._json = await asyncio.to_thread(self._parse_large, body)
            else:
                self._json = parse_json(body, self._limits)
        return self._json

    def _parse_large(self, body: bytes) -> Any:
        value = parse_json(body, self._limits)
        return value if self._validate is None else self._validate(value)


def parse_json(body: bytes, limits: JSONLimits) -> Any:
    """Returns what a body says; raises as `JSONRequest.json`."""
    text = body.decode("utf-8-sig")
    _check_num_containers(text, limits.max_containers)
    try:
        value = json.loads(text, parse_float=_number)
    except RecursionError:
        raise _too_deep(limits) from None
    if not _is_within(value, limits.max_depth):
        raise _too_deep(limits)
    _check_characters(text)
    return value


def _too_deep(limits: JSONLimits) -> InvalidRequestError:
    return InvalidRequestError(
        f"The body has more than {limits.max_depth} levels of objects and arrays.", ()
    )


def _check_num_containers(text: str, max_containers: int) -> None:
    """Counts before anything is made of them; brackets in texts do not count."""
    if text.count("{") + text.count("[") <= max_containers:
        return
    without_escapes = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(without_escapes.split('"')[::2])
    if outside.count("{") + outside.count("[") > max_containers:
        raise InvalidRequestError(
            f"The body has more than {max_containers} objects and arrays.", ()
        )


def _is_within(value: Any, max_depth: int) -> bool:
    """Whether a value has so many levels at most."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return True
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for ones in inner for one in ones if isinstance(one, dict | list)]
    return not level


def _check_characters(text: str) -> None:
    """Raises JSONDecodeError if some escape in this JSON is but half of a character."""
    if "\\u" not in text:
        return
    for found in ESCAPE.finditer(text):
        if found[1]:
            raise json.JSONDecodeError("Half of a Unicode character", text, found.start())


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
