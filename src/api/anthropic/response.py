"""Wire models of answers of `/v1/messages` and of the events of their streams."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from src.api.fields.timings import Timings

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class TokenCount(BaseModel):
    """Number of tokens of a conversation."""

    input_tokens: int


class OutputDetails(BaseModel):
    """Breakdown of the new tokens."""

    thinking_tokens: int = Field(description="Tokens of the thought and of its tags.")


class MessageUsage(BaseModel):
    """Number of tokens of a request; the first three fields add up to the conversation's."""

    input_tokens: int = Field(description="Tokens of the conversation that were computed.")
    cache_creation_input_tokens: int
    cache_read_input_tokens: int = Field(description="Tokens that came from the prompt cache.")
    output_tokens: int = Field(description="End tokens included.")
    output_tokens_details: OutputDetails | None = Field(
        default=None, description="Left out if the answer cannot have a thought."
    )


class AnswerTextBlock(BaseModel):
    """A text block."""

    type: Literal["text"]
    text: str
    citations: None


class AnswerToolUseBlock(BaseModel):
    """A tool call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(description="Empty if the answer was cut in it.")


class AnswerThinkingBlock(BaseModel):
    """A thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str = Field(description="Digest of the thought; it is not verified here.")


OutputBlock = AnswerThinkingBlock | AnswerTextBlock | AnswerToolUseBlock


class Message(BaseModel):
    """The answer; without content at the beginning of a stream."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[OutputBlock]
    stop_reason: StopReason | None = Field(description="null when a stream begins.")
    stop_sequence: str | None = Field(
        description="The one of `stop_sequences` that ended the answer."
    )
    usage: MessageUsage
    timings: Timings | None = Field(default=None, description="Left out unless requested.")


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
    """New text of a text block."""

    type: Literal["text_delta"]
    text: str


class InputDeltaPart(BaseModel):
    """New part of a call's arguments, which are JSON text."""

    type: Literal["input_json_delta"]
    partial_json: str


class ThinkingDeltaPart(BaseModel):
    """New text of a thought."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDeltaPart(BaseModel):
    """Signature of a thought, before its block ends."""

    type: Literal["signature_delta"]
    signature: str


class BlockDelta(BaseModel):
    """New part of a block."""

    type: Literal["content_block_delta"]
    index: int
    delta: TextDeltaPart | InputDeltaPart | ThinkingDeltaPart | SignatureDeltaPart


class BlockStop(BaseModel):
    """A block ends."""

    type: Literal["content_block_stop"]
    index: int


class Ending(BaseModel):
    """Reason of the answer's end."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    """The answer ends."""

    type: Literal["message_delta"]
    delta: Ending
    usage: MessageUsage
    timings: Timings | None = Field(default=None, description="Left out unless requested.")


class MessageStop(BaseModel):
    """The last event."""

    type: Literal["message_stop"]
