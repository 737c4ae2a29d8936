"""Answers of `/v1/messages` and the events of their streams, as they are on the wire."""

from typing import Any, Literal

from pydantic import BaseModel, Field

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class TokenCount(BaseModel):
    """How many tokens a conversation has."""

    input_tokens: int


class MessageUsage(BaseModel):
    """How many tokens a request took; those of the conversation are the first three together."""

    input_tokens: int = Field(description="Of the conversation, that had to be computed.")
    cache_creation_input_tokens: int
    cache_read_input_tokens: int = Field(description="That did not have to be computed again.")
    output_tokens: int = Field(description="End tokens included.")


class AnswerTextBlock(BaseModel):
    """A block of the answer."""

    type: Literal["text"]
    text: str
    citations: None


class AnswerToolUseBlock(BaseModel):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(description="Empty where the answer is cut in it.")


OutputBlock = AnswerTextBlock | AnswerToolUseBlock


class Message(BaseModel):
    """The answer, or what is known of it when a stream begins."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[OutputBlock]
    stop_reason: StopReason | None = Field(description="null when a stream begins.")
    stop_sequence: str | None = Field(description="Which of `stop_sequences` ended it.")
    usage: MessageUsage


class MessageStart(BaseModel):
    """The first event."""

    type: Literal["message_start"]
    message: Message


class BlockStart(BaseModel):
    """A block begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: OutputBlock


class TextDeltaPart(BaseModel):
    """What is new in a block of text."""

    type: Literal["text_delta"]
    text: str


class InputDeltaPart(BaseModel):
    """What is new in a call's arguments, a JSON object as a text."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(BaseModel):
    """A block goes on."""

    type: Literal["content_block_delta"]
    index: int
    delta: TextDeltaPart | InputDeltaPart


class BlockStop(BaseModel):
    """A block ends."""

    type: Literal["content_block_stop"]
    index: int


class Ending(BaseModel):
    """Why the answer ends."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    """The answer ends."""

    type: Literal["message_delta"]
    delta: Ending
    usage: MessageUsage


class MessageStop(BaseModel):
    """The last event."""

    type: Literal["message_stop"]
