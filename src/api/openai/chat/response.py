"""Wire models of answers and chunks of `/v1/chat/completions`."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from src.api.fields.priority import UsedTier
from src.api.fields.timings import Timings
from src.api.openai.common import Usage, WrittenLogprob

THOUGHT = "The thought before the answer; left out without one, and by REASONING_FIELD."


class ChatLogprob(WrittenLogprob):
    """A token and the natural logarithm of its probability."""


class ChatPositionLogprob(ChatLogprob):
    """A generated token and the most likely tokens at its position."""

    top_logprobs: list[ChatLogprob]


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of the content's tokens, end tokens included."""

    content: Iterable[ChatPositionLogprob]
    refusal: None


class Function(BaseModel):
    """Function of a call."""

    name: str
    arguments: str = Field(description="JSON object as text; incomplete if the answer was cut.")


class AnswerCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: Function


class AnswerMessage(BaseModel):
    """The assistant's message: text, tool calls, or both."""

    role: Literal["assistant"]
    content: str | None = Field(description="null for tool calls without text.")
    refusal: None
    reasoning_content: str | None = Field(default=None, description=THOUGHT)
    reasoning: str | None = Field(default=None, description=THOUGHT)
    tool_calls: list[AnswerCall] | None = Field(default=None, description="Left out without calls.")


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason = Field(
        description="`stop`: an end token or stop text, or a call of the named tool. `tool_calls`:"
        " other tool calls. `length`: the maximum number of tokens."
    )


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    service_tier: UsedTier | None = Field(default=None, description="Left out unless requested.")
    usage: Usage
    timings: Timings | None = Field(default=None, description="Left out unless requested.")


class FunctionDelta(BaseModel):
    """New part of a call's function: first the name, then text of the arguments."""

    name: str | None = None
    arguments: str


class CallDelta(BaseModel):
    """New part of a call; the first one has its id, type and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    """New part of a message: first the role, then thought, text and calls; empty at the end."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(BaseModel):
    """New part of one choice."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None = Field(description="null before the last chunk.")


class ChatCompletionChunk(BaseModel):
    """Chunk of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    service_tier: UsedTier | None = None
    usage: Usage | None = None
    timings: Timings | None = None
