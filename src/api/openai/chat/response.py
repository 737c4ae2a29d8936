"""Answers of `/v1/chat/completions`, whole and in chunks, as they are on the wire."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from src.api.openai.common import Usage, WrittenLogprob


class ChatLogprob(WrittenLogprob):
    """A token and the natural logarithm of its probability."""


class ChatPositionLogprob(ChatLogprob):
    """The token that was taken, and the most likely ones there."""

    top_logprobs: list[ChatLogprob]


class ChoiceLogprobs(BaseModel):
    """What the model thought of each new token; an end token is one."""

    content: Iterable[ChatPositionLogprob]
    refusal: None


class Function(BaseModel):
    """What is called."""

    name: str
    arguments: str = Field(description="A JSON object as a text; cut where the answer is.")


class AnswerCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: Function


class AnswerMessage(BaseModel):
    """What the model says, or calls."""

    role: Literal["assistant"]
    content: str | None = Field(description="null if there are calls and no text.")
    refusal: None
    tool_calls: list[AnswerCall] | None = Field(
        default=None, description="Left out if there are none."
    )


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason = Field(
        description="`stop`: an end token or a stop text came, or the named tool was called."
        " `tool_calls`: tools were called. `length`: that was all it may."
    )


class ChatCompletion(BaseModel):
    """The answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(BaseModel):
    """What is new of what is called: first the name, then pieces of the arguments."""

    name: str | None = None
    arguments: str


class CallDelta(BaseModel):
    """What is new in a call; first its id, type and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    """What is new in an answer: first the role, then text and calls; nothing at the end."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(BaseModel):
    """What is new in one choice."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None = Field(description="null before the last chunk.")


class ChatCompletionChunk(BaseModel):
    """What is new in a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
