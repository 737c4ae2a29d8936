"""OpenAI's errors: `{"error": {"message", "type", "param", "code"}}`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from src.api.family import ApiFamily, ErrorAnswer, Failure, RequestProblem
from src.api.fields.paths import field_path, joined_message

INVALID_REQUEST = "invalid_request_error"
INDEX = "[{}]"
"""Format of an index in a field path, as in `messages.[0].content`."""

# Status to the error's type, and its code where the error has none of its own.
TYPES: dict[int, tuple[str, str | None]] = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_scope"),
    404: (INVALID_REQUEST, "unknown_url"),
    405: (INVALID_REQUEST, "method_not_supported"),
    408: (INVALID_REQUEST, "request_timeout"),
    409: (INVALID_REQUEST, "invalid_state"),
    413: (INVALID_REQUEST, "request_too_large"),
    415: (INVALID_REQUEST, "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: (INVALID_REQUEST, "headers_too_large"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
    507: ("server_error", "insufficient_storage"),
}

# pydantic's kinds of problems to codes.
CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "json_invalid": "invalid_json",
}


class OpenAIError(BaseModel):
    """Error of a request."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The invalid field.", examples=["max_tokens"])
    code: str | None = Field(examples=["context_length_exceeded"])


class OpenAIErrorResponse(BaseModel):
    """Error answer, or the last event of a stream that fails."""

    error: OpenAIError


class OpenAIFamily(ApiFamily):
    """Conventions of OpenAI's API, and of vLLM's tokenizer routes, which follow it."""

    name = "openai"
    error_model = OpenAIErrorResponse
    error_descriptions: ClassVar[Mapping[int, str]] = {
        400: "The request is invalid; `param` names the field."
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
        kind, status_code_name = TYPES.get(status_code, (INVALID_REQUEST, None))
        error = {"message": message, "type": kind, "param": param, "code": code or status_code_name}
        return {"error": error}

    def validation_answer(
        self, problems: Sequence[RequestProblem], request_id: str | None
    ) -> ErrorAnswer:
        """The message holds the first problems; `param` and `code` are of the first one."""
        message = joined_message(problems, INDEX)
        param = field_path(problems[0].field, INDEX)
        code = CODES.get(problems[0].kind, "invalid_value")
        return ErrorAnswer(400, self.error_body(400, message, param=param, code=code))

    def invalid_request_answer(
        self, problem: RequestProblem, status_code: int, code: str, request_id: str | None
    ) -> ErrorAnswer:
        param = field_path(problem.field, INDEX)
        body = self.error_body(status_code, problem.message, param=param, code=code)
        return ErrorAnswer(status_code, body)

    def failure_data(self, failure: Failure, request_id: str | None) -> str:
        return json.dumps(self.error_body(failure.status_code, failure.message, code=failure.code))


OPENAI = OpenAIFamily()
