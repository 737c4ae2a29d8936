"""The native API's errors, in FastAPI's format: `{"detail": ...}`, and 422 for invalid requests."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from src.api.family import ApiFamily, ErrorAnswer, Failure, RequestProblem
from src.models import StreamError, StreamErrorEvent


class ErrorResponse(BaseModel):
    """Error of a request."""

    detail: str


class FieldProblem(BaseModel):
    """One problem of a request."""

    type: str = Field(examples=["greater_than_equal"])
    loc: list[str | int] = Field(description="Field location.", examples=[["body", "max_length"]])
    msg: str = Field(examples=["Input should be greater than or equal to 1"])


class ValidationErrorResponse(BaseModel):
    """All problems of a request."""

    detail: list[FieldProblem]


class NativeFamily(ApiFamily):
    """Conventions of `/generate`, of the operations routes and of unknown paths."""

    name = "native"
    unknown_path = "Not Found"
    field_names: ClassVar[Mapping[str | int, str]] = {
        "max_tokens": "max_length",
        "n": "num_return_sequences",
    }
    failure_event = "error"
    error_model = ErrorResponse
    error_descriptions: ClassVar[Mapping[int, str]] = {
        400: "The body cannot be parsed.",
        422: "The request is invalid.",
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
        return {"detail": message}

    def error_model_of(self, status_code: int) -> type[BaseModel]:
        return ValidationErrorResponse if status_code == 422 else ErrorResponse

    def validation_answer(
        self, problems: Sequence[RequestProblem], request_id: str | None
    ) -> ErrorAnswer:
        return ErrorAnswer(422, {"detail": [_detail(problem) for problem in problems]})

    def invalid_request_answer(
        self, problem: RequestProblem, status_code: int, code: str, request_id: str | None
    ) -> ErrorAnswer:
        return self.validation_answer([problem], request_id)

    def failure_data(self, failure: Failure, request_id: str | None) -> str:
        error = StreamError(message=failure.message, code=failure.status_code)
        return StreamErrorEvent(error=error).model_dump_json()


def _detail(problem: RequestProblem) -> dict[str, Any]:
    return {"type": problem.kind, "loc": [*problem.loc], "msg": problem.message}


NATIVE = NativeFamily()
