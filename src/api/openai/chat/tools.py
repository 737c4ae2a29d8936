"""Tools and calls of them as a chat's requests tell of them, and what the model is told of both."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, StrictBool, StrictStr, ValidationError
from pydantic_core import PydanticCustomError

from src.api.openai.fields import NoEffect, OpenAIRequest
from src.engine.chat_template import MessageToolCall
from src.errors import InvalidRequestError, InvalidSchemaError
from src.tool_calls import NO_ARGUMENTS, Tool, ToolChoice

MAX_TOOLS = 128

FunctionName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(OpenAIRequest):
    """A function that the model may call."""

    name: FunctionName = Field(description="Letters, digits, `_` and `-`, at most 64.")
    description: StrictStr | None = Field(default=None, description="What it does, for the model.")
    parameters: dict[str, Any] | None = Field(
        default=None, description="The JSON schema of its arguments, an object. Default: none."
    )
    strict: Annotated[StrictBool | None, NoEffect("arguments always keep to the schema")] = None


class FunctionTool(OpenAIRequest):
    """A tool; all are functions."""

    type: Literal["function"] = Field(description="`function` alone.")
    function: FunctionDefinition = Field(description="The function.")


class FunctionReference(OpenAIRequest):
    """A function by its name."""

    name: StrictStr = Field(description="One of `tools`.")


class NamedToolChoice(OpenAIRequest):
    """The one tool that is to be called."""

    type: Literal["function"] = Field(description="`function` alone.")
    function: FunctionReference = Field(description="Which function.")


def _parse_tool_choice(value: object) -> object:
    """One of the words, or which function; that is no union, whose errors nobody would read."""
    if value in ("none", "auto", "required"):
        return value
    try:
        return NamedToolChoice.model_validate(value)
    except ValidationError:
        raise PydanticCustomError(
            "invalid_value",
            'It must be none, auto, required, or {{"type": "function", "function": {{"name": …}}}}',
        ) from None


ToolChoiceField = Annotated[
    Literal["none", "auto", "required"] | NamedToolChoice,
    PlainValidator(
        _parse_tool_choice,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedToolChoice,
    ),
]


class CalledFunction(OpenAIRequest):
    """What an earlier answer called."""

    name: FunctionName = Field(description="Of the function.")
    arguments: StrictStr = Field(description="Its arguments, a JSON object as a text.")


class MessageCall(OpenAIRequest):
    """A call in an earlier answer."""

    id: StrictStr = Field(min_length=1, description="By which its result is told.")
    type: Literal["function"] = Field(description="`function` alone.")
    function: CalledFunction = Field(description="What was called.")

    def to_engine(self, field: tuple[str | int, ...]) -> MessageToolCall:
        """Raises InvalidRequestError if the arguments are no JSON object."""
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise InvalidRequestError(
                "A call's arguments must be a JSON object, as a text.",
                (*field, "function", "arguments"),
            )
        return MessageToolCall(self.id, self.function.name, arguments)


def choose_tools(
    tools: Sequence[FunctionTool] | None,
    choice: Literal["none", "auto", "required"] | NamedToolChoice | None,
    *,
    is_parallel: bool,
) -> ToolChoice | None:
    """Which tools an answer may or must call; None is none.

    Raises:
        InvalidRequestError: these do not go together.
    """
    if not tools:
        if choice not in (None, "none"):
            raise InvalidRequestError("There are no tools to choose from.", ("tool_choice",))
        return None
    if choice == "none":
        return None
    found = tuple(_tools(tools))
    if isinstance(choice, NamedToolChoice):
        named = tuple(tool for tool in found if tool.name == choice.function.name)
        if not named:
            raise InvalidRequestError("There is no tool of this name.", ("tool_choice",))
        return ToolChoice(found, named, is_forced=True, is_parallel=False)
    return ToolChoice(found, found, is_forced=choice == "required", is_parallel=is_parallel)


def _tools(tools: Sequence[FunctionTool]) -> Iterator[Tool]:
    names = set()
    for index, tool in enumerate(tools):
        function = tool.function
        place = ("tools", index, "function")
        if function.name in names:
            raise InvalidRequestError("Two tools have this name.", (*place, "name"))
        names.add(function.name)
        schema = NO_ARGUMENTS if function.parameters is None else function.parameters
        if schema.get("type", "object") != "object":
            raise InvalidSchemaError(
                "A function's arguments are an object, so its parameters' type is `object`.",
                (*place, "parameters", "type"),
            )
        yield Tool(function.name, function.description, schema, (*place, "parameters"))
