"""One table from our errors to a status, and the answers to failed requests.

The body's shape is `ops.error_body`'s to decide; only the native API's 422 is made here.
An answer never repeats what was sent but names (of fields, of an unknown model), shortened and
escaped; nor the text of an exception that is not ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from src.api import problems as wire
from src.errors import (
    ClientDisconnectedError,
    ContextLengthError,
    EngineDeadError,
    EngineNotReadyError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidGrammarError,
    InvalidRequestError,
    InvalidSchemaError,
    LimitStorageDownError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitedError,
    ServiceError,
)
from src.limits.rate_limit import limit_headers
from src.middleware.error_body import Dialect, dialect_of, error_body
from src.middleware.request_log import CLIENT_CLOSED_REQUEST

STATUS: dict[type[Exception], int] = {
    EngineNotReadyError: 503,
    EngineDeadError: 503,
    OverloadedError: 503,
    LimitStorageDownError: 503,
    RateLimitedError: 429,
    GenerationTimeoutError: 504,
    GenerationFailedError: 500,
    ModelNotFoundError: 404,
}
CODES: dict[type[Exception], str] = {
    ContextLengthError: "context_length_exceeded",
    InvalidGrammarError: "invalid_grammar",
    InvalidSchemaError: "invalid_json_schema",
    ModelNotFoundError: "model_not_found",
    OverloadedError: "overloaded",
}
"""OpenAI's names of what a status alone does not tell."""

# The engine's names, which are OpenAI's too, to the native API's.
FIELD_NAMES: dict[str | int, str] = {"max_tokens": "max_length", "n": "num_return_sequences"}
ANTHROPIC_NAMES: dict[str | int, str] = {"stop": "stop_sequences"}
ROUTE_NAMES: dict[str, dict[str | int, str]] = {
    "/v1/chat/completions": {"prompt": "messages"},
    "/v1/completions": {"prompt_logprobs": "logprobs"},
    "/v1/messages": {"prompt": "messages"},
    "/v1/responses": {
        "prompt": "input",
        "max_tokens": "max_output_tokens",
        "logprobs": "top_logprobs",
    },
    "/v1/embeddings": {"prompt": "input", "max_tokens": "input"},
}
"""What is said of the tokens of a request, in the words of a route."""

NO_SUCH_PATH = "There is no such path; /docs lists those that there are."
MAX_PROBLEMS = 20
UNPARSABLE = "The body cannot be parsed: it must be JSON in UTF-8, without thousands of digits."
RETRY_AFTER_LOADING = 5  # seconds
RETRY_AFTER_STORAGE = 1


def add_exception_handlers(app: FastAPI) -> None:
    """Makes the app answer errors as this module says."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(400, _unparsable)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(InvalidRequestError, _invalid_request)
    app.add_exception_handler(ClientDisconnectedError, _client_left)
    app.add_exception_handler(ServiceError, _service_error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()[:MAX_PROBLEMS]
    if dialect_of(request.scope) is not Dialect.NATIVE:
        return _refusal(request, problems)
    return _unprocessable([_problem(p["type"], p["loc"], _message(p)) for p in problems])


def _refusal(request: Request, problems: Sequence[dict[str, Any]]) -> Response:
    """All problems in one message; the first one decides the rest."""
    # What is not JSON has its place in the text for a location, and that is no field.
    places = [() if p["type"] == "json_invalid" else p["loc"][1:] for p in problems]
    dialect = dialect_of(request.scope)
    params = [wire.param_of([_clean(part) for part in place], dialect) for place in places]
    message = wire.message_of(list(zip(params, map(_message, problems), strict=True)))
    if dialect is Dialect.ANTHROPIC:  # it has no other place for their names than the message
        body = error_body(request.scope, 400, message)
        body["error"] |= wire.thread_details(problems)
        return JSONResponse(body, 400)
    return _answer(request, 400, message, param=params[0], code=wire.code_of(problems[0]))


def _answer(
    request: Request,
    status_code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> Response:
    body = error_body(request.scope, status_code, message, param=param, code=code)
    return JSONResponse(body, status_code, headers)


def _message(problem: dict[str, Any]) -> str:
    """What pydantic says, where a caller who knows no pydantic understands it."""
    if problem["type"] == "json_invalid":
        return f"The body is not valid JSON: {problem['ctx']['error']}"
    if problem["loc"] == ("body",) and problem["type"] in ("missing", "model_attributes_type"):
        return "The body must be a JSON object"
    if problem["type"] == "model_attributes_type":
        return "Input should be a JSON object"
    if problem["type"] == "extra_forbidden":
        return "There is no such field; /docs lists those that there are"
    return str(problem["msg"])


async def _unparsable(request: Request, error: Exception) -> Response:
    """FastAPI's answer when parsing raised what is no JSONDecodeError."""
    if isinstance(error.__cause__, InvalidRequestError):
        return await _invalid_request(request, error.__cause__)
    if isinstance(error.__cause__, RequestValidationError):  # of a large body
        return await _validation_error(request, error.__cause__)
    return _answer(request, 400, UNPARSABLE)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses: unknown paths and methods, bodies that are not read."""
    assert isinstance(error, HTTPException)
    is_unknown = error.status_code == 404 and dialect_of(request.scope) is not Dialect.NATIVE
    message = NO_SUCH_PATH if is_unknown else str(error.detail)
    return _answer(request, error.status_code, message, error.headers)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    dialect = dialect_of(request.scope)
    if dialect is not Dialect.NATIVE:
        status_code, code = STATUS.get(type(error), 400), CODES.get(type(error), "invalid_value")
        names = ROUTE_NAMES.get(request.scope["path"], {})
        if dialect is Dialect.ANTHROPIC:
            names = names | ANTHROPIC_NAMES
        field = tuple(names.get(part, part) for part in error.field)
        param = wire.param_of([_clean(part) for part in field], dialect)
        return _answer(request, status_code, str(error), param=param, code=code)
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


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _service_error(request: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, EngineNotReadyError):
        headers["Retry-After"] = str(RETRY_AFTER_LOADING)
    if isinstance(error, LimitStorageDownError):
        headers["Retry-After"] = str(RETRY_AFTER_STORAGE)
    if isinstance(error, RateLimitedError):
        headers = limit_headers(error)
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
    return _answer(request, status_of(error), str(error), headers, code=code_of(error))


def code_of(error: Exception) -> str | None:
    """OpenAI's name of this error; None is its status's."""
    return CODES.get(type(error))


def status_of(error: Exception) -> int:
    """The status of the answer to a request that ended with this error."""
    return STATUS.get(type(error), 500)
