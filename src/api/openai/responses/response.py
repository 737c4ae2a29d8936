"""Wire models of answers of `/v1/responses` and of the events of their streams."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, Field

from src.api.fields.priority import UsedTier
from src.api.fields.timings import Timings
from src.api.openai.common import WrittenLogprob


class TopLogprob(WrittenLogprob):
    """A token and the natural logarithm of its probability."""


class OutputLogprob(TopLogprob):
    """A generated token and the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]


class OutputText(BaseModel):
    """Text part of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: Iterable[OutputLogprob]


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    """The assistant's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(BaseModel):
    """A tool call."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="JSON object as text; incomplete if the answer was cut.")
    status: Status


class ReasoningPart(BaseModel):
    """Text of a thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(BaseModel):
    """The thought before the answer."""

    id: str
    type: Literal["reasoning"]
    summary: list[None] = Field(description="Empty: `content` is the whole thought.")
    content: list[ReasoningPart]
    status: Status


OutputItem = OutputReasoning | OutputMessage | OutputCall


class InputTokensDetails(BaseModel):
    """Breakdown of the conversation's tokens."""

    cached_tokens: int = Field(description="Tokens that came from the prompt cache.")
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    """Breakdown of the new tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Number of tokens of a request."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int = Field(description="End tokens included.")
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    """Error that ended the answer."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(BaseModel):
    """Reason of an incomplete answer."""

    reason: Literal["max_output_tokens"]


class AnswerText(BaseModel):
    """Options of the answer's text."""

    format: dict[str, Any] = Field(description="Format of the request.")


class AnswerReasoning(BaseModel):
    """Thinking, as the request asks for it."""

    effort: str | None
    summary: str | None


class Response(BaseModel):
    """The answer, with options of the request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
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
    reasoning: AnswerReasoning | None = Field(
        default=None, description="Left out if the request has none."
    )
    safety_identifier: str | None
    service_tier: UsedTier = Field(description="Tier that the request had.")
    temperature: float
    text: AnswerText
    tool_choice: str | dict[str, Any] = Field(description="Tool choice of the request.")
    tools: list[dict[str, Any]] = Field(description="Tools of the request.")
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    timings: Timings | None = Field(
        default=None, description="At the end, and left out unless requested."
    )


class ResponseEvent(BaseModel):
    """The answer begins, or ends with one of the statuses."""

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
    part: OutputText | ReasoningPart


class EventTopLogprob(BaseModel):
    """A token and the natural logarithm of its probability."""

    token: str
    logprob: float


class EventLogprob(EventTopLogprob):
    """A generated token and the most likely tokens at its position."""

    top_logprobs: list[EventTopLogprob]


class ReasoningDeltaEvent(BaseModel):
    """New text of a thought."""

    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDoneEvent(BaseModel):
    """Whole text of a thought."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class TextDeltaEvent(BaseModel):
    """New text of a part."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: Iterable[EventLogprob]


class TextDoneEvent(BaseModel):
    """Whole text of a part."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: Iterable[EventLogprob]


class ArgumentsDeltaEvent(BaseModel):
    """New text of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(BaseModel):
    """All arguments of a call; incomplete if the answer was cut."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str
