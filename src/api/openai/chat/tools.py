"""Tools and tool calls in requests of `/v1/chat/completions` and `/tokenize`."""

from collections.abc import Sequence
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
from src.tool_calling.grammar import Tool


class FunctionDefinition(FunctionFields):
    """A function that the model may call."""


class FunctionTool(OfAFunction):
    """A tool; all are functions."""

    function: FunctionDefinition = Field(description="The function.")


def to_tools(tools: Sequence[FunctionTool] | None) -> list[Tool]:
    """Returns the functions of the field `tools`."""
    return [
        tool.function.to_engine(("tools", index, "function"))
        for index, tool in enumerate(tools or ())
    ]


class FunctionReference(WireRequest):
    """Reference to a function."""

    name: StrictStr = Field(description="Name of one of `tools`.")


class NamedToolChoice(OfAFunction):
    """The tool that must be called."""

    function: FunctionReference = Field(description="The function.")

    def to_engine(self) -> NamedTool:
        return NamedTool(self.function.name, ("tool_choice", "function", "name"))


ChatToolChoice = Annotated[
    ChoiceWord | NamedToolChoice | None,
    choice_of(NamedToolChoice, '{"type": "function", "function": {"name": …}}'),
]


class CalledFunction(WireRequest):
    """Function of a call in an earlier answer."""

    name: FunctionName = Field(description="Name of the function.")
    arguments: Arguments
    parsed_arguments: Parsed = None


class MessageCall(OfAFunction):
    """A call in an earlier answer."""

    id: CallId
    function: CalledFunction = Field(description="Called function.")
    index: Annotated[StrictInt | None, NoEffect(SENT_BACK)] = None

    def to_engine(self, field: FieldPath) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are not a JSON object."""
        name, arguments = self.function.name, self.function.arguments
        return read_call(self.id, name, arguments, (*field, "function", "arguments"))
