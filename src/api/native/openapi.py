"""What the documentation of each route of the native API says of its error answers."""

from typing import Any

from pydantic import BaseModel, Field


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    detail: str


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    type: str = Field(examples=["greater_than_equal"])
    loc: list[str | int] = Field(description="Where it is.", examples=[["body", "max_length"]])
    msg: str = Field(examples=["Input should be greater than or equal to 1"])


class ValidationErrorResponse(BaseModel):
    """Everything that is wrong with a request."""

    detail: list[FieldProblem]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its documentation."""
    return {status: ERRORS[status] for status in statuses}


ERRORS: dict[int, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body cannot be parsed."},
    413: {"model": ErrorResponse, "description": "The body is larger than MAX_BODY_BYTES."},
    415: {"model": ErrorResponse, "description": "The body is not sent as JSON."},
    422: {"model": ValidationErrorResponse, "description": "The request cannot be used as it is."},
    429: {"model": ErrorResponse, "description": "Too many requests; see Retry-After."},
    500: {"model": ErrorResponse, "description": "The model failed on this request."},
    503: {
        "model": ErrorResponse,
        "description": "The model is loading, too many requests wait (see Retry-After), or the"
        " engine has ended.",
    },
    504: {"model": ErrorResponse, "description": "No answer has begun by TIMEOUT_SECONDS."},
}
