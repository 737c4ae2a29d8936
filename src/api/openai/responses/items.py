"""What the input of a response is made of: messages, calls of tools, and their results."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StrictStr, Tag

from src.api.fields import (
    MAX_PARTS,
    SENT_BACK,
    FunctionName,
    NoEffect,
    Parsed,
    Refused,
    SentBack,
    WireRequest,
)
from src.api.openai.tools import Arguments, CallId, read_call
from src.api.tagged_items import known_types, tag_by_type
from src.text.chat_template import ChatMessage, MessageToolCall

MAX_ITEMS = 2048


class InputPart(WireRequest):
    """A piece of a message's text."""

    type: Literal["input_text", "output_text"] = Field(description="A client's, or an answer's.")
    text: StrictStr = Field(description="The text; parts are joined by line ends.")
    annotations: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
    logprobs: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
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
    """One turn of the conversation, as a client writes it or as an answer had it."""

    role: Literal["user", "assistant", "system", "developer"] = Field(
        description="Who speaks; `developer` is `system`."
    )
    content: Content = Field(description="What is said: a text, or a list of parts of text.")
    type: Annotated[Literal["message"] | None, NoEffect("it is what an item is by itself")] = None
    id: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    status: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    phase: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None

    def to_engine(self) -> ChatMessage:
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, text_of(self.content))


class FunctionCallItem(WireRequest):
    """A call of a tool in an earlier answer."""

    type: Literal["function_call"] = Field(description="`function_call` alone.")
    call_id: CallId
    name: FunctionName = Field(description="Of the function.")
    arguments: Arguments
    id: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    status: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    caller: Annotated[None, Refused("no code is run")] = None
    namespace: Annotated[None, Refused("functions have none")] = None
    is_async: Annotated[None, Refused("results are waited for")] = Field(
        default=None, alias="async"
    )
    async_: Annotated[None, Refused("results are waited for")] = None
    parsed_arguments: Parsed = None

    def to_engine(self, field: tuple[str | int, ...]) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are no JSON object."""
        return read_call(self.call_id, self.name, self.arguments, (*field, "arguments"))


class FunctionOutputItem(WireRequest):
    """What a tool gave."""

    type: Literal["function_call_output"] = Field(description="`function_call_output` alone.")
    call_id: StrictStr = Field(description="Of the call that this is the result of.")
    output: Content = Field(description="The result: a text, or a list of parts of text.")
    id: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    status: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None


Item = Annotated[
    Annotated[ResponseInputMessage, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionOutputItem, Tag("<function_call_output>")],
    Discriminator(tag_by_type("function_call", "function_call_output", default="message")),
]
_ItemList = Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]
Items = Annotated[
    _ItemList,
    known_types(
        _ItemList,
        "message",
        "function_call",
        "function_call_output",
        noun="Item",
        from_text=lambda text: {"role": "user", "content": text},
    ),
]


def text_of(content: list[InputPart]) -> str:
    """The parts as one text, joined by line ends."""
    return "\n".join(part.text for part in content)
