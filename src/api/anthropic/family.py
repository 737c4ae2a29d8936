"""Anthropic's errors: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from src.api.family import ApiFamily, ErrorAnswer, Failure, RequestProblem
from src.api.fields.paths import field_path, joined_message

INDEX = "{}"
"""Format of an index in a field path, as in `messages.0.content`."""

# Status to the error's type.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
THREAD_REFUSED = {"error_code": "thread_unsupported_request"}
"""Details of a refused `thread`.

Anthropic's client then sends the whole conversation again without `thread`. Its tool runner sends
that field first wherever it is used.
"""


class AnthropicError(BaseModel):
    """Error of a request."""

    type: str = Field(examples=["invalid_request_error"])
    message: str
    details: dict[str, Any] | None = Field(
        default=None, description="`error_code` of a refused `thread`; left out for other errors."
    )


class AnthropicErrorResponse(BaseModel):
    """Error answer, or the last event of a stream that fails."""

    type: Literal["error"]
    error: AnthropicError
    request_id: str | None


class AnthropicFamily(ApiFamily):
    """Conventions of Anthropic's API; messages name the field, since errors have no `param`."""

    name = "anthropic"
    request_id_header = "Request-Id"
    api_key_header = b"x-api-key"
    field_names: ClassVar[Mapping[str | int, str]] = {"stop": "stop_sequences"}
    failure_event = "error"
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    error_model = AnthropicErrorResponse
    error_descriptions: ClassVar[Mapping[int, str]] = {
        400: "The request is invalid; the message names the field."
    }

    def error_body(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        kind = TYPES.get(status_code, "invalid_request_error")
        error = {"type": kind, "message": f"{param}: {message}" if param else message}
        return {"type": "error", "error": error, "request_id": request_id}

    def validation_answer(
        self, problems: Sequence[RequestProblem], request_id: str | None
    ) -> ErrorAnswer:
        body = self.error_body(400, joined_message(problems, INDEX), request_id=request_id)
        if any(problem.loc == ("body", "thread") for problem in problems):
            body["error"]["details"] = THREAD_REFUSED
        return ErrorAnswer(400, body)

    def invalid_request_answer(
        self, problem: RequestProblem, status_code: int, code: str, request_id: str | None
    ) -> ErrorAnswer:
        param = field_path(problem.field, INDEX)
        body = self.error_body(status_code, problem.message, param=param, request_id=request_id)
        return ErrorAnswer(status_code, body)

    def failure_data(self, failure: Failure, request_id: str | None) -> str:
        return json.dumps(
            self.error_body(failure.status_code, failure.message, request_id=request_id)
        )


ANTHROPIC = AnthropicFamily()
