"""Answers of `/v1/responses` and the events of their streams, as they are on the wire."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, Field

from src.api.openai.common import WrittenLogprob


class TopLogprob(WrittenLogprob):
    """A token and the natural logarithm of its probability."""


class OutputLogprob(TopLogprob):
    """The token that was taken, and the most likely ones there."""

    top_logprobs: list[TopLogprob]


class OutputText(BaseModel):
    """A piece of what the model says."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: Iterable[OutputLogprob]


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    """What the model says."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="A JSON object as a text; cut where the answer is.")
    status: Status


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(BaseModel):
    """What was special about the conversation's tokens."""

    cached_tokens: int = Field(description="Of them, that did not have to be computed again.")
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    """What was special about the new tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """How many tokens a request took."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int = Field(description="End tokens included.")
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    """Why there is no whole answer."""

    code: Literal["server_error"]
    message: str


class IncompleteDetails(BaseModel):
    """Why the answer is cut."""

    reason: Literal["max_output_tokens"]


class AnswerText(BaseModel):
    """What the answer's text is like."""

    format: dict[str, Any] = Field(description="As it was asked for.")


class Response(BaseModel):
    """The answer, with what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    safety_identifier: str | None
    service_tier: Literal["default"]
    temperature: float
    text: AnswerText
    tool_choice: str | dict[str, Any] = Field(description="As it was asked for.")
    tools: list[dict[str, Any]] = Field(description="As they were asked for.")
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(BaseModel):
    """The answer begins, or ends in one way or another."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: Response


class ItemEvent(BaseModel):
    """An item of the output begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(BaseModel):
    """A part of an item begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class EventTopLogprob(BaseModel):
    """A token and the natural logarithm of its probability."""

    token: str
    logprob: float


class EventLogprob(EventTopLogprob):
    """The token that was taken, and the most likely ones there."""

    top_logprobs: list[EventTopLogprob]


class TextDeltaEvent(BaseModel):
    """A part goes on."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: Iterable[EventLogprob]


class TextDoneEvent(BaseModel):
    """A part's text is whole."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: Iterable[EventLogprob]


class ArgumentsDeltaEvent(BaseModel):
    """A call goes on."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(BaseModel):
    """A call's arguments are whole, or as whole as they get."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str
