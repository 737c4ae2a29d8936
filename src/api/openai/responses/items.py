"""Items in the input of a response: messages, thoughts, tool calls and their results."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictStr, Tag

from src.api.fields.shared import (
    ANYTHING,
    MAX_PARTS,
    SENT_BACK,
    FunctionName,
    NoEffect,
    Parsed,
    Refused,
    SentBack,
    WireRequest,
)
from src.api.fields.tagged_items import known_types, tag_by_type
from src.api.openai.tools import Arguments, CallId, read_call
from src.errors import FieldPath
from src.text.chat_template import ChatMessage, MessageToolCall

MAX_ITEMS = 2048


class InputPart(WireRequest):
    """Text part of a message."""

    type: Literal["input_text", "output_text"] = Field(
        description="Text of a client, or of an answer."
    )
    text: StrictStr = Field(description="Text; parts are joined with line ends.")
    annotations: Annotated[SentBack | None, SENT_BACK] = None
    logprobs: Annotated[SentBack | None, SENT_BACK] = None
    parsed: Parsed = None


_PartList = Annotated[list[InputPart], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = Annotated[
    _PartList,
    known_types(
        _PartList,
        "input_text",
        "output_text",
        noun="Part",
        from_text=lambda text: {"type": "input_text", "text": text},
    ),
]


class ResponseInputMessage(WireRequest):
    """A message of a client, or of an earlier answer."""

    role: Literal["user", "assistant", "system", "developer"] = Field(
        description="Author; `developer` is the same as `system`."
    )
    content: Content = Field(description="A text, or a list of text parts.")
    type: Annotated[
        Literal["message"] | None, NoEffect("items are messages by default", silent=ANYTHING)
    ] = None
    id: Annotated[StrictStr | None, SENT_BACK] = None
    status: Annotated[StrictStr | None, SENT_BACK] = None
    phase: Annotated[StrictStr | None, SENT_BACK] = None

    def to_engine(self) -> ChatMessage:
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, text_of(self.content))


class FunctionCallItem(WireRequest):
    """A tool call in an earlier answer."""

    type: Literal["function_call"] = Field(description="Only `function_call`.")
    call_id: CallId
    name: FunctionName = Field(description="Name of the function.")
    arguments: Arguments
    id: Annotated[StrictStr | None, SENT_BACK] = None
    status: Annotated[StrictStr | None, SENT_BACK] = None
    caller: Annotated[Any, SENT_BACK] = None
    namespace: Annotated[Any, SENT_BACK] = None
    is_async: Annotated[None, Refused("results must be in the request")] = Field(
        default=None, alias="async"
    )
    async_: Annotated[None, Refused("results must be in the request")] = None
    parsed_arguments: Parsed = None

    def to_engine(self, field: FieldPath) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are not a JSON object."""
        return read_call(self.call_id, self.name, self.arguments, (*field, "arguments"))


class FunctionOutputItem(WireRequest):
    """Result of a tool call."""

    type: Literal["function_call_output"] = Field(description="Only `function_call_output`.")
    call_id: StrictStr = Field(description="Id of the call.")
    output: Content = Field(description="Result: a text, or a list of text parts.")
    id: Annotated[StrictStr | None, SENT_BACK] = None
    status: Annotated[StrictStr | None, SENT_BACK] = None


class ReasoningText(WireRequest):
    """Part of a thought, or of its summary."""

    type: Literal["reasoning_text", "summary_text"] = Field(description="Text, or a summary.")
    text: StrictStr = Field(description="Text; parts are joined with line ends.")


class ReasoningItem(WireRequest):
    """A thought in an earlier answer."""

    type: Literal["reasoning"] = Field(description="Only `reasoning`.")
    content: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=MAX_PARTS)] | None = (
        Field(default=None, description="The thought; the template decides on its use.")
    )
    summary: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=MAX_PARTS)] | None = (
        Field(default=None, description="Its summary, which counts if there is no `content`.")
    )
    encrypted_content: Annotated[
        StrictStr | None, NoEffect("it cannot be read here", silent=ANYTHING)
    ] = None
    id: Annotated[StrictStr | None, SENT_BACK] = None
    status: Annotated[StrictStr | None, SENT_BACK] = None

    def to_engine(self) -> str:
        """Returns the text of the thought."""
        return "\n".join(part.text for part in self.content or self.summary or ())


Item = Annotated[
    Annotated[ResponseInputMessage, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        tag_by_type("function_call", "function_call_output", "reasoning", default="message")
    ),
]
_ItemList = Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]
Items = Annotated[
    _ItemList,
    known_types(
        _ItemList,
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        noun="Item",
        from_text=lambda text: {"role": "user", "content": text},
    ),
]


def text_of(content: list[InputPart]) -> str:
    """Joins parts with line ends."""
    return "\n".join(part.text for part in content)
