"""Parses request bodies as JSON; refuses those that are too large or of another media type.

A refusal is raised as HTTPException from `receive`, where the app reads the body. So the app's own
handlers render it in the error format of the route.

Bodies of more than LARGE_BODY bytes are parsed and validated in a thread, so that the event loop
answers other requests meanwhile. C code holds the GIL until it returns, also in a thread. So its
work is bounded: by the body's size, by MAX_JSON_DEPTH and by the number of containers.
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
from src.middleware.route_policy import policy_of

LARGE_BODY = 2**16
"""Bytes; larger bodies are parsed in a thread, which takes 0.1 ms longer."""

BYTES_PER_CONTAINER = 16
"""Bytes of MAX_BODY_BYTES for each object or array that a body may have: 131,072 in 2 MiB.

`[[],[],[]` has one in three bytes, and the garbage collector visits each of them.
"""

CLOSE = {"Connection": "close"}  # the rest of the body is not read

# An escape sequence; the group matches a surrogate without its pair.
ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")


class RequestBodyMiddleware:
    """Accepts JSON bodies up to a size; uploads are left to their route.

    Args:
        app: the app inside, which reads the body.
        max_body_bytes: larger bodies get 413, chunked ones as soon as they exceed it.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or policy_of(scope).is_upload:
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
            return  # no body; the route refuses it if it needs one
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise HTTPException(
                415, "The body must be JSON; send the header Content-Type: application/json.", CLOSE
            )
        codings = {name.lower() for name in headers.getlist("content-encoding")} - {"identity"}
        codings |= {name.lower() for name in headers.getlist("transfer-encoding")} - {"chunked"}
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
    """Request with a JSON body, with two rules beside JSON's own.

    - 5.0 is read as 5: JSON has no integers, and some languages write 5 so. JSON Schema agrees.
    - Surrogates come in pairs: one alone has no UTF-8 encoding, so no tokenizer could read it.

    Args:
        scope: of the request.
        receive: returns its body.
        limits: of the body.
        validate: validates a large body for the route, in a thread; FastAPI validates others.
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
        """The body was read and is larger than LARGE_BODY."""
        return len(getattr(self, "_body", b"")) > LARGE_BODY

    async def json(self) -> Any:
        """Parses the body; validates a large one too.

        Raises:
            InvalidRequestError: the body has too many levels, objects or arrays.
            ValueError: the body is not valid JSON.
            RequestValidationError: the body is not valid for the route.
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
    """Parses a body; raises as `JSONRequest.json` does."""
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
    """Counts containers before any is created; brackets in strings do not count."""
    if text.count("{") + text.count("[") <= max_containers:
        return
    without_escapes = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(without_escapes.split('"')[::2])
    if outside.count("{") + outside.count("[") > max_containers:
        raise InvalidRequestError(
            f"The body has more than {max_containers} objects and arrays.", ()
        )


def _is_within(value: Any, max_depth: int) -> bool:
    """Returns whether a value has at most `max_depth` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return True
        values = (value.values() if isinstance(value, dict) else value for value in level)
        level = [item for items in values for item in items if isinstance(item, dict | list)]
    return not level


def _check_characters(text: str) -> None:
    """Raises JSONDecodeError if an escape is a surrogate without its pair."""
    if "\\u" not in text:
        return
    for escape in ESCAPE.finditer(text):
        if escape[1]:
            raise json.JSONDecodeError("Unpaired surrogate", text, escape.start())


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
