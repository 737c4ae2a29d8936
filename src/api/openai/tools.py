"""What chats and responses say of tools alike: functions, which of them to call, arguments."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, StrictBool, StrictStr, ValidationError
from pydantic_core import PydanticCustomError

from src.api.fields import FunctionName, StrictTool, ToolDescription, WireRequest
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import MessageToolCall
from src.tool_calling.choice import ChoiceWord
from src.tool_calling.grammar import NO_ARGUMENTS, Tool

Arguments = Annotated[
    StrictStr, Field(description="Its arguments, a JSON object as a text; an empty text is `{}`.")
]
CallId = Annotated[StrictStr, Field(min_length=1, description="By which its result is told.")]
TOOL_CHOICE = (
    "`none` keeps the tools from the model, `auto` lets it choose, `required` makes it call one, an"
    " object says which. Default: `auto`."
)
TOOLS = "Functions that the model may call."
ParallelToolCalls = Annotated[
    StrictBool | None,
    Field(description="Whether an answer may hold several calls. Default: true."),
]


class OfAFunction(WireRequest):
    """What tells of a function: all tools are some."""

    type: Literal["function"] = Field(description="`function` alone.")


class FunctionFields(WireRequest):
    """What is told of a function."""

    name: FunctionName
    description: ToolDescription = None
    parameters: dict[str, Any] | None = Field(
        default=None, description="The JSON schema of its arguments, an object. Default: none."
    )
    strict: StrictTool = None

    def to_engine(self, field: FieldPath) -> Tool:
        """The function that stands at this place of the request."""
        schema = NO_ARGUMENTS if self.parameters is None else self.parameters
        return Tool(self.name, self.description, schema, (*field, "parameters"))


def choice_of(named: type[BaseModel], shape: str) -> PlainValidator:
    """Returns what takes one of the words, or an object that names a tool.

    It is no union, whose errors nobody would read.

    Args:
        named: the object's model.
        shape: how it is written, for the error.
    """

    def parse(value: object) -> object:
        if value in (None, "none", "auto", "required"):
            return value
        try:
            return named.model_validate(value)
        except ValidationError:
            raise PydanticCustomError(
                "invalid_value",
                "It must be none, auto, required, or {shape}",
                {"shape": shape},
            ) from None

    return PlainValidator(parse, json_schema_input_type=ChoiceWord | named | None)


def read_call(call_id: str, name: str, arguments: str, field: FieldPath) -> MessageToolCall:
    """Returns a call in an earlier answer.

    Args:
        call_id: by which its result is told.
        name: of the function.
        arguments: that it was called with.
        field: where they stand in the request, for the error.

    Raises:
        InvalidRequestError: they are no JSON object.
    """
    try:
        read = json.loads(arguments or "{}")
        json.dumps(read, ensure_ascii=False).encode()  # raises if it holds half of a character
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise InvalidRequestError("A call's arguments must be a JSON object, as a text.", field)
    return MessageToolCall(call_id, name, read)
