"""Tools and calls of them as a chat's requests tell of them."""

from typing import Annotated

from pydantic import Field, StrictInt, StrictStr

from src.api.fields import SENT_BACK, FunctionName, NoEffect, Parsed, WireRequest
from src.api.openai.tools import (
    Arguments,
    CallId,
    FunctionFields,
    OfAFunction,
    choice_of,
    read_call,
)
from src.errors import FieldPath
from src.text.chat_template import MessageToolCall
from src.tool_calling.choice import ChoiceWord, NamedTool


class FunctionDefinition(FunctionFields):
    """A function that the model may call."""


class FunctionTool(OfAFunction):
    """A tool; all are functions."""

    function: FunctionDefinition = Field(description="The function.")


class FunctionReference(WireRequest):
    """A function by its name."""

    name: StrictStr = Field(description="One of `tools`.")


class NamedToolChoice(OfAFunction):
    """The one tool that is to be called."""

    function: FunctionReference = Field(description="Which function.")

    def to_engine(self) -> NamedTool:
        return NamedTool(self.function.name, ("tool_choice", "function", "name"))


ChatToolChoice = Annotated[
    ChoiceWord | NamedToolChoice | None,
    choice_of(NamedToolChoice, '{"type": "function", "function": {"name": …}}'),
]


class CalledFunction(WireRequest):
    """What an earlier answer called."""

    name: FunctionName = Field(description="Of the function.")
    arguments: Arguments
    parsed_arguments: Parsed = None


class MessageCall(OfAFunction):
    """A call in an earlier answer."""

    id: CallId
    function: CalledFunction = Field(description="What was called.")
    index: Annotated[StrictInt | None, NoEffect(SENT_BACK)] = None

    def to_engine(self, field: FieldPath) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are no JSON object."""
        name, arguments = self.function.name, self.function.arguments
        return read_call(self.id, name, arguments, (*field, "function", "arguments"))
