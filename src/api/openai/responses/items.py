"""What the input of a response is made of: messages, calls of tools, and their results."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictStr, Tag
from pydantic_core import PydanticCustomError

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
from src.errors import FieldPath
from src.text.chat_template import ChatMessage, MessageToolCall

MAX_ITEMS = 2048


def _only(listed: Any, what: str, *known: str) -> BeforeValidator:
    """Refuses others than these by name; a text is the user's, or one part."""

    def check(value: object) -> object:
        if isinstance(value, str):
            is_item = what == "Item"
            return [
                {"role": "user", "content": value}
                if is_item
                else {"type": "input_text", "text": value}
            ]
        # A list that is longer is refused for its length.
        for index, one in enumerate(value[:MAX_ITEMS] if isinstance(value, list) else ()):
            kind = one.get("type") if isinstance(one, dict) else None
            if isinstance(kind, str) and kind not in known:
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "{what} {index} is of type {kind}; known are: {known}",
                    {
                        "what": what,
                        "index": index,
                        "kind": kind[:40].encode("utf-8", "replace").decode(),
                        "known": ", ".join(known),
                    },
                )
        return value

    return BeforeValidator(check, json_schema_input_type=StrictStr | listed)


class InputPart(WireRequest):
    """A piece of a message's text."""

    type: Literal["input_text", "output_text"] = Field(description="A client's, or an answer's.")
    text: StrictStr = Field(description="The text; parts are joined by line ends.")
    annotations: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
    logprobs: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
    parsed: Parsed = None


_PartList = Annotated[list[InputPart], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = Annotated[_PartList, _only(_PartList, "Part", "input_text", "output_text")]


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

    def to_engine(self, field: FieldPath) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are no JSON object."""
        return read_call(self.call_id, self.name, self.arguments, (*field, "arguments"))


class FunctionOutputItem(WireRequest):
    """What a tool gave."""

    type: Literal["function_call_output"] = Field(description="`function_call_output` alone.")
    call_id: StrictStr = Field(description="Of the call that this is the result of.")
    output: Content = Field(description="The result: a text, or a list of parts of text.")
    id: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    status: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None


def _kind_of(item: Any) -> str:
    """The tag of an item's class; one of no known kind is taken for a message."""
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return f"<{kind}>" if kind in ("function_call", "function_call_output") else "<message>"


Item = Annotated[
    Annotated[ResponseInputMessage, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionOutputItem, Tag("<function_call_output>")],
    Discriminator(_kind_of),
]
_ItemList = Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]
Items = Annotated[
    _ItemList, _only(_ItemList, "Item", "message", "function_call", "function_call_output")
]


def text_of(content: list[InputPart]) -> str:
    """The parts as one text, joined by line ends."""
    return "\n".join(part.text for part in content)
