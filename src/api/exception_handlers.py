"""One table from our errors to a status, and the bodies of error answers.

An answer never repeats what was sent, nor the text of an exception that is not ours.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from slowapi.errors import RateLimitExceeded
from starlette.responses import JSONResponse, Response

from src.errors import (
    ClientDisconnectedError,
    EngineDeadError,
    EngineNotReadyError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
)
from src.ops.middleware import CLIENT_CLOSED_REQUEST
from src.ops.rate_limit import seconds_until_allowed

STATUS: dict[type[Exception], int] = {
    EngineNotReadyError: 503,
    EngineDeadError: 503,
    OverloadedError: 503,
    GenerationTimeoutError: 504,
    GenerationFailedError: 500,
}
# The engine's names to ours.
FIELD_NAMES: dict[str | int, str] = {"max_tokens": "max_length", "n": "num_return_sequences"}
MAX_PROBLEMS = 20
UNPARSABLE = (
    "The body cannot be parsed: it must be JSON in UTF-8, without thousands of levels or digits."
)
RETRY_AFTER_LOADING = 5  # seconds


def add_exception_handlers(app: FastAPI) -> None:
    """Makes the app answer errors as this module says."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(400, _unparsable)
    app.add_exception_handler(InvalidRequestError, _invalid_request)
    app.add_exception_handler(RateLimitExceeded, _rate_limited)
    app.add_exception_handler(ClientDisconnectedError, _client_left)
    app.add_exception_handler(ServiceError, _service_error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()[:MAX_PROBLEMS]
    return _unprocessable([_problem(p["type"], p["loc"], _message(p)) for p in problems])


def _message(problem: dict[str, Any]) -> str:
    """What pydantic says, where a caller who knows no pydantic understands it."""
    if problem["type"] == "json_invalid":
        return f"The body is not valid JSON: {problem['ctx']['error']}"
    is_missing = problem["type"] == "missing" and problem["loc"] == ("body",)
    if is_missing or problem["type"] == "model_attributes_type":
        return "The body must be a JSON object"
    if problem["type"] == "extra_forbidden":
        return "There is no such field; /docs lists those that there are"
    return str(problem["msg"])


async def _unparsable(request: Request, error: Exception) -> Response:
    """FastAPI's answer when parsing raised what is no JSONDecodeError."""
    return JSONResponse({"detail": UNPARSABLE}, status_code=400)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    field = tuple(FIELD_NAMES.get(part, part) for part in error.field)
    return _unprocessable([_problem("value_error", ("body", *field), str(error))])


def _problem(kind: str, loc: Sequence[str | int], msg: str) -> dict[str, Any]:
    return {"type": kind, "loc": [_clean(part) for part in loc], "msg": msg}


def _clean(part: str | int) -> str | int:
    """A field's name is the caller's text: shortened, and without halves of characters."""
    if isinstance(part, int):
        return part
    return part[:200].encode("utf-8", "replace").decode()


def _unprocessable(problems: list[dict[str, Any]]) -> Response:
    return JSONResponse({"detail": problems}, status_code=422)


async def _rate_limited(request: Request, error: Exception) -> Response:
    assert isinstance(error, RateLimitExceeded)
    seconds = seconds_until_allowed(request.app.state.limiter, request)
    return JSONResponse(
        {"detail": f"Rate limit exceeded: {error.detail}. Try again in {seconds} s."},
        status_code=429,
        headers={"Retry-After": str(seconds)},
    )


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _service_error(request: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, EngineNotReadyError):
        headers["Retry-After"] = str(RETRY_AFTER_LOADING)
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse({"detail": str(error)}, status_code=status_of(error), headers=headers)


def status_of(error: Exception) -> int:
    """The status of the answer to a request that ended with this error."""
    return STATUS.get(type(error), 500)
