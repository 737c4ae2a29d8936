"""What the documentation of each route of this API says of its answers."""

from typing import Any

from pydantic import BaseModel, Field

from src.api.sse import stream_response


class OpenAIError(BaseModel):
    """What is wrong."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong.", examples=["max_tokens"])
    code: str | None = Field(examples=["context_length_exceeded"])


class OpenAIErrorResponse(BaseModel):
    """Why there is no answer, or why a stream ends before its time."""

    error: OpenAIError


DESCRIPTIONS = {
    400: "The request cannot be used as it is; `param` names the field.",
    404: "Another model is served.",
    413: "The body is larger than MAX_BODY_BYTES.",
    415: "The body is not sent as JSON.",
    429: "Too many requests; see Retry-After.",
    500: "The model failed on this request.",
    503: "The model is loading, too many requests wait (see Retry-After), or the engine has ended.",
    504: "No answer has begun by TIMEOUT_SECONDS.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route."""
    return {
        status: {"model": OpenAIErrorResponse, "description": DESCRIPTIONS[status]}
        for status in statuses
    }


def streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    """The answer of a route that can stream."""
    description = "The answer; with `stream` a chunk in the data of each event, then `[DONE]`."
    return stream_response(description, chunk, OpenAIErrorResponse)
