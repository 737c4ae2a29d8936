"""Tools and tool calls in requests of `/v1/chat/completions` and `/tokenize`."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StrictInt, StrictStr

from src.api.fields.shared import MAX_TOOLS, SENT_BACK, FunctionName, Parsed, WireRequest
from src.api.openai.tools import (
    Arguments,
    CallId,
    FunctionFields,
    Mode,
    OfAFunction,
    OfAllowedTools,
    choice_of,
    read_call,
)
from src.errors import FieldPath
from src.text.chat_template import MessageToolCall
from src.tool_calling.choice import AllowedTools, ChoiceWord, NamedTool
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


class AllowedFunctions(WireRequest):
    """The tools that may be called."""

    mode: Mode
    tools: list[NamedToolChoice] = Field(
        fail_fast=True, min_length=1, max_length=MAX_TOOLS, description="Some of `tools`."
    )


class AllowedToolsChoice(OfAllowedTools):
    """The tools that may be called; all of them stay in the prompt."""

    allowed_tools: AllowedFunctions = Field(description="The tools, and if one must be called.")

    def to_engine(self) -> AllowedTools:
        field: FieldPath = ("tool_choice", "allowed_tools", "tools")
        tools = tuple(
            NamedTool(tool.function.name, (*field, index, "function", "name"))
            for index, tool in enumerate(self.allowed_tools.tools)
        )
        return AllowedTools(tools, self.allowed_tools.mode == "required")


ChatToolChoice = Annotated[
    ChoiceWord | NamedToolChoice | AllowedToolsChoice | None,
    choice_of(NamedToolChoice, AllowedToolsChoice, '{"type": "function", "function": {"name": …}}'),
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
    index: Annotated[StrictInt | None, SENT_BACK] = None

    def to_engine(self, field: FieldPath) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are not a JSON object."""
        name, arguments = self.function.name, self.function.arguments
        return read_call(self.id, name, arguments, (*field, "function", "arguments"))
