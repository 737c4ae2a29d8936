"""Lines of a batch's input file: read one by one, and checked as OpenAI's API does."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.jobs.records import Problem

CHUNK_BYTES = 2**16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_ID_LENGTH = 512
MAX_SHOWN_LENGTH = 80
FIELDS = ("custom_id", "method", "url", "body")
UNSUPPORTED = {
    "stream": "Answers of a batch cannot be streamed.",
    "background": "Lines of a batch run in the background anyway: leave this out.",
}
"""Fields of a body that must be false or left out."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file that is not empty.

    Args:
        number: from 1; empty lines count.
        offset: of its first byte in the file.
        length: in bytes.
        data: its bytes; None if it is too long.
    """

    number: int
    offset: int
    length: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class LineRequest:
    """The request in a line."""

    custom_id: str
    body: dict[str, Any]

    @property
    def model(self) -> str:
        model = self.body["model"]
        assert isinstance(model, str)
        return model


@dataclass(frozen=True, slots=True)
class LineRules:
    """Rules for the lines of a batch.

    Args:
        endpoint: required `url`.
        max_bytes: size of a line.
        is_served: tells whether a model's name may be used.
    """

    endpoint: str
    max_bytes: int
    is_served: Callable[[str], bool]


class LineError(Exception):
    """A line cannot be used.

    Args:
        code: OpenAI's code.
        message: the problem and its remedy.
        param: the field.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param

    def at(self, number: int) -> Problem:
        """Returns the problem of a line with this number."""
        return Problem(self.code, str(self), number, self.param)


def read_lines(path: Path, max_bytes: int) -> Iterator[Line]:
    """Yields the lines of a file that are not blank; at most `max_bytes` are held in memory."""
    number = offset = 0
    with path.open("rb") as file:
        while data := file.readline(max_bytes + 2):
            number, start = number + 1, offset
            length = len(data)
            is_too_long = not data.endswith(b"\n") and length == max_bytes + 2
            while is_too_long and (rest := file.readline(CHUNK_BYTES)):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
            offset += length
            if number == 1 and data.startswith(BYTE_ORDER_MARK):
                data, start = data[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
            if is_too_long or len(data.rstrip()) > max_bytes:
                yield Line(number, start, length, None)
            elif not data.isspace() and data:
                yield Line(number, start, len(data), data)


def check_line(line: Line, rules: LineRules) -> LineRequest:
    """Returns a line's request.

    Raises:
        LineError: it is none, or not one of this batch.
    """
    if line.data is None:
        raise LineError(
            "request_too_large",
            f"This line is larger than {rules.max_bytes} bytes (the server's MAX_BODY_BYTES).",
        )
    request = parse_line(line.data)
    if request.get("method") != "POST":
        raise LineError("invalid_method", "The method must be POST.", "method")
    if request.get("url") != rules.endpoint:
        raise LineError(
            "url_mismatch", f"The url must be the batch's endpoint, {rules.endpoint}.", "url"
        )
    for name in request:
        if name not in FIELDS:
            raise LineError(
                "unknown_parameter", f"A line has the fields {', '.join(FIELDS)} alone.", name[:80]
            )
    _check_body(request, rules)
    return LineRequest(_custom_id(request), request["body"])


def parse_line(data: bytes) -> dict[str, Any]:
    """Returns a line's JSON object; raises LineError if it is none."""
    try:
        request = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise LineError("invalid_json_line", "This line is not parseable as valid JSON object.")
    return request


def dump_body(values: dict[str, Any]) -> bytes:
    """Returns the body of a request, not larger than as it was sent.

    An unpaired surrogate exists in JSON as an escape sequence alone.
    """
    separators = (",", ":")
    try:
        return json.dumps(values, ensure_ascii=False, separators=separators).encode()
    except UnicodeEncodeError:
        return json.dumps(values, separators=separators).encode()


def _custom_id(request: dict[str, Any]) -> str:
    custom_id = request.get("custom_id")
    if custom_id is None:
        raise LineError("missing_required_parameter", "Each line needs a custom_id.", "custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_LENGTH:
        raise LineError(
            "invalid_value", f"A text of 1 to {MAX_ID_LENGTH} characters is needed.", "custom_id"
        )
    try:
        custom_id.encode()
    except UnicodeEncodeError:
        raise LineError("invalid_value", "It has an unpaired surrogate.", "custom_id") from None
    return custom_id


def _check_body(request: dict[str, Any], rules: LineRules) -> None:
    body = request.get("body")
    if not isinstance(body, dict):
        raise LineError(
            "missing_required_parameter", "Each line needs a body, a JSON object.", "body"
        )
    model = body.get("model")
    if not isinstance(model, str):
        raise LineError(
            "missing_required_parameter", "Each body needs a model, as text.", "body.model"
        )
    if not rules.is_served(model):
        shown = ascii(model[:MAX_SHOWN_LENGTH])[1:-1]
        raise LineError(
            "model_not_found", f"The model `{shown}` does not exist here.", "body.model"
        )
    for name, problem in UNSUPPORTED.items():
        if body.get(name) not in (None, False):
            raise LineError("unsupported_parameter", problem, f"body.{name}")
