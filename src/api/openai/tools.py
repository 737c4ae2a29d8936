"""Fields of tools that chats and responses share: functions, tool choice, arguments."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, StrictBool, StrictStr, ValidationError
from pydantic_core import PydanticCustomError

from src.api.fields.shared import FunctionName, StrictTool, ToolDescription, WireRequest
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import MessageToolCall
from src.tool_calling.choice import ChoiceWord
from src.tool_calling.grammar import NO_ARGUMENTS, Tool

Arguments = Annotated[
    StrictStr, Field(description="Arguments, a JSON object as text; an empty text is `{}`.")
]
CallId = Annotated[StrictStr, Field(min_length=1, description="Id that its result refers to.")]
TOOL_CHOICE = (
    "`none`: no calls. `auto`: the model decides. `required`: at least one call. An object names"
    " the tool to call, or with the type `allowed_tools` some of the tools. Default: `auto`."
)
TOOLS = "Functions that the model may call."
ParallelToolCalls = Annotated[
    StrictBool | None,
    Field(description="Whether an answer may hold several calls. Default: true."),
]


class OfAFunction(WireRequest):
    """Base class of objects with the type `function`, which all tools have."""

    type: Literal["function"] = Field(description="`function` alone.")


class FunctionFields(WireRequest):
    """Fields of a function."""

    name: FunctionName
    description: ToolDescription = None
    parameters: dict[str, Any] | None = Field(
        default=None, description="The JSON schema of its arguments, an object. Default: none."
    )
    strict: StrictTool = None

    def to_engine(self, field: FieldPath) -> Tool:
        """Returns the tool; `field` is its path in the request, for errors."""
        schema = NO_ARGUMENTS if self.parameters is None else self.parameters
        return Tool(self.name, self.description, schema, (*field, "parameters"))


class OfAllowedTools(WireRequest):
    """Base class of objects with the type `allowed_tools`."""

    type: Literal["allowed_tools"] = Field(description="`allowed_tools` alone.")


Mode = Annotated[
    Literal["auto", "required"],
    Field(description="`auto`: the model decides. `required`: at least one call."),
]


def choice_of(named: type[BaseModel], allowed: type[BaseModel], shape: str) -> PlainValidator:
    """Returns a validator that accepts one of the words, or an object that names tools.

    A union would answer with the problems of all its members.

    Args:
        named: wire model of the object that names one tool.
        allowed: wire model of the object that names several tools.
        shape: example of the object with one tool, for the error.
    """

    def parse(value: object) -> object:
        if value in (None, "none", "auto", "required"):
            return value
        is_several = isinstance(value, dict) and value.get("type") == "allowed_tools"
        try:
            return (allowed if is_several else named).model_validate(value)
        except ValidationError:
            raise PydanticCustomError(
                "invalid_value",
                "It must be none, auto, required, {shape}, or allowed_tools with a mode and tools",
                {"shape": shape},
            ) from None

    return PlainValidator(parse, json_schema_input_type=ChoiceWord | named | allowed | None)


def read_call(call_id: str, name: str, arguments: str, field: FieldPath) -> MessageToolCall:
    """Returns a call of an earlier answer.

    Args:
        call_id: id that its result refers to.
        name: name of the function.
        arguments: JSON text of the arguments.
        field: path of the arguments in the request, for errors.

    Raises:
        InvalidRequestError: the arguments are not a JSON object.
    """
    try:
        parsed = json.loads(arguments or "{}")
        json.dumps(parsed, ensure_ascii=False).encode()  # raises on lone surrogates
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidRequestError("A call's arguments must be a JSON object, as a text.", field)
    return MessageToolCall(call_id, name, parsed)
