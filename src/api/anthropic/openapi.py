"""What the documentation of each route of this API says of its answers."""

from typing import Any, Literal

from pydantic import BaseModel, Field

DESCRIPTIONS = {
    400: "The request cannot be used as it is; the message names the field.",
    404: "Another model is served.",
    413: "The body is larger than MAX_BODY_BYTES.",
    415: "The body is not sent as JSON.",
    429: "Too many requests; see Retry-After.",
    500: "The model failed on this request.",
    503: "The model is loading, too many requests wait (see Retry-After), or the engine has ended.",
    504: "No answer has begun by TIMEOUT_SECONDS.",
}


class AnthropicError(BaseModel):
    """What is wrong."""

    type: str = Field(examples=["invalid_request_error"])
    message: str
    details: dict[str, Any] | None = Field(
        default=None, description="`error_code` of a refused `thread`; else left out."
    )


class AnthropicErrorResponse(BaseModel):
    """Why there is no answer, or why a stream ends before its time."""

    type: Literal["error"]
    error: AnthropicError
    request_id: str | None


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route."""
    return {
        status: {"model": AnthropicErrorResponse, "description": DESCRIPTIONS[status]}
        for status in statuses
    }
