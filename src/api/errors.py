"""Answers to failed requests: one table from errors to a status and a code.

The format of an answer is its API family's (`family.py`). No answer repeats text of the request,
except names of fields and models, shortened and escaped, nor the text of foreign exceptions.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from src.api.family import JSON_INVALID, ApiFamily, ErrorAnswer, RequestProblem
from src.errors import (
    ClientDisconnectedError,
    ContextLengthError,
    EngineDeadError,
    EngineNotReadyError,
    FieldPath,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidGrammarError,
    InvalidRequestError,
    InvalidSchemaError,
    JobNotFoundError,
    JobStateError,
    LimitStorageDownError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitedError,
    ServiceError,
    StorageDownError,
    StorageFullError,
    UploadTooLargeError,
)
from src.limits.rate_limit import limit_headers
from src.middleware.error_body import REQUEST_ID, error_body
from src.middleware.request_log import CLIENT_CLOSED_REQUEST
from src.middleware.route_policy import policy_of

STATUS: dict[type[Exception], int] = {
    EngineNotReadyError: 503,
    EngineDeadError: 503,
    OverloadedError: 503,
    LimitStorageDownError: 503,
    RateLimitedError: 429,
    GenerationTimeoutError: 504,
    GenerationFailedError: 500,
    ModelNotFoundError: 404,
    JobNotFoundError: 404,
    JobStateError: 409,
    UploadTooLargeError: 413,
    StorageFullError: 507,
    StorageDownError: 503,
}
CODES: dict[type[Exception], str] = {
    ContextLengthError: "context_length_exceeded",
    InvalidGrammarError: "invalid_grammar",
    InvalidSchemaError: "invalid_json_schema",
    ModelNotFoundError: "model_not_found",
    OverloadedError: "overloaded",
    JobNotFoundError: "not_found",
    JobStateError: "invalid_state",
    UploadTooLargeError: "storage_quota_exceeded",
    StorageFullError: "insufficient_storage",
    StorageDownError: "storage_unavailable",
}
"""OpenAI's error codes, where the status alone does not determine the code."""

MAX_PROBLEMS = 20
MAX_NAME_LENGTH = 200
INVALID_VALUE = "value_error"
"""pydantic's kind of a problem that a check of our own found."""

UNPARSABLE = "The body cannot be parsed: it must be JSON in UTF-8, without thousands of digits."
RETRY_AFTER_LOADING = 5  # seconds
RETRY_AFTER_STORAGE = 1


def add_exception_handlers(app: FastAPI) -> None:
    """Adds the handlers of this module to the app."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(400, _unparsable)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(InvalidRequestError, _invalid_request)
    app.add_exception_handler(ClientDisconnectedError, _client_left)
    app.add_exception_handler(ServiceError, _service_error)


def family_of(scope: Scope) -> ApiFamily:
    """Returns the API family that a request was sent to."""
    family = policy_of(scope).family
    assert isinstance(family, ApiFamily)
    return family


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        RequestProblem(problem["type"], _cleaned(problem["loc"]), _message(problem))
        for problem in error.errors()[:MAX_PROBLEMS]
    ]
    answer = family_of(request.scope).validation_answer(problems, request.scope.get(REQUEST_ID))
    return _response(answer)


def _message(problem: dict[str, Any]) -> str:
    """Returns pydantic's message, reworded where it assumes knowledge of pydantic."""
    if problem["type"] == JSON_INVALID:
        return f"The body is not valid JSON: {problem['ctx']['error']}"
    if problem["loc"] == ("body",) and problem["type"] in ("missing", "model_attributes_type"):
        return "The body must be a JSON object"
    if problem["type"] == "model_attributes_type":
        return "Input should be a JSON object"
    if problem["type"] == "extra_forbidden":
        return "There is no such field; /docs lists those that there are"
    return str(problem["msg"])


def _cleaned(loc: FieldPath) -> FieldPath:
    """Shortens names, which are the client's text, and replaces lone surrogates in them."""
    return tuple(
        part
        if isinstance(part, int)
        else part[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode()
        for part in loc
    )


async def _unparsable(request: Request, error: Exception) -> Response:
    """Answers a 400 of FastAPI, which wraps all errors of parsing but JSONDecodeError."""
    if isinstance(error.__cause__, InvalidRequestError):
        return await _invalid_request(request, error.__cause__)
    if isinstance(error.__cause__, RequestValidationError):  # of a large body
        return await _validation_error(request, error.__cause__)
    return _error_response(request, 400, UNPARSABLE)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answers the framework's errors: unknown paths, wrong methods, bodies that are not read."""
    assert isinstance(error, HTTPException)
    is_unknown = error.status_code == 404
    message = family_of(request.scope).unknown_path if is_unknown else str(error.detail)
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_methods_of(request.app, policy_of(request.scope).path))}
    return _error_response(request, error.status_code, message, headers)


def _methods_of(app: FastAPI, path: str) -> list[str]:
    """Returns the methods of all routes of a path; the router knows those of the first alone."""
    routes = [route for route in iter_route_contexts(app.routes) if route.path == path]
    return sorted({method for route in routes for method in route.methods or ()})


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    policy, family = policy_of(request.scope), family_of(request.scope)
    names = {**family.field_names, **policy.field_names}
    field = _cleaned(tuple(names.get(part, part) for part in error.field))
    problem = RequestProblem(INVALID_VALUE, ("body", *field), str(error))
    status_code, code = status_of(error), CODES.get(type(error), "invalid_value")
    request_id = request.scope.get(REQUEST_ID)
    return _response(family.invalid_request_answer(problem, status_code, code, request_id))


def _response(answer: ErrorAnswer) -> Response:
    return JSONResponse(answer.body, answer.status_code)


def _error_response(
    request: Request,
    status_code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = error_body(request.scope, status_code, message)
    return JSONResponse(body, status_code, headers)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _service_error(request: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, EngineNotReadyError):
        headers["Retry-After"] = str(RETRY_AFTER_LOADING)
    if isinstance(error, LimitStorageDownError):
        headers["Retry-After"] = str(RETRY_AFTER_STORAGE)
    if isinstance(error, UploadTooLargeError | StorageFullError | StorageDownError):
        headers["Connection"] = "close"  # the rest of an upload is not read
    if isinstance(error, RateLimitedError):
        headers = limit_headers(error)
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
    param = error.param if isinstance(error, JobNotFoundError) else None
    body = error_body(request.scope, status_of(error), str(error), param=param, code=code_of(error))
    return JSONResponse(body, status_of(error), headers)


def code_of(error: Exception) -> str | None:
    """Returns OpenAI's code of an error; None derives it from the status."""
    return CODES.get(type(error))


def status_of(error: Exception) -> int:
    """Returns the status of the answer to a request that ended with this error."""
    return STATUS.get(type(error), 400 if isinstance(error, InvalidRequestError) else 500)
