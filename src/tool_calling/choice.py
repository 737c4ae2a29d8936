"""Tools that an answer may call, for APIs that tell of them each in its own shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from src.engine.structured_output.source import GrammarSource
from src.errors import FieldPath, InvalidRequestError, InvalidSchemaError
from src.text.chat_template import ChatMessage
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar

ChoiceWord = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called.

    Args:
        name: of the tool.
        field: where it stands in the request, for errors.
    """

    name: str
    field: FieldPath


def choose(
    tools: Sequence[Tool], wanted: ChoiceWord | NamedTool, *, is_parallel: bool
) -> ToolChoice | None:
    """Which tools an answer may or must call; None is none.

    Args:
        tools: that the request has.
        wanted: none, whatever the model likes, one at least, or just one.
        is_parallel: several calls may be made.

    Raises:
        InvalidRequestError: these do not go together.
    """
    if not tools and wanted not in ("none", "auto"):
        raise InvalidRequestError("There are no tools to choose from.", ("tool_choice",))
    if not tools or wanted == "none":
        return None
    _check(tools)
    if not isinstance(wanted, NamedTool):
        return ToolChoice(tuple(tools), tuple(tools), wanted == "required", is_parallel)
    named = tuple(tool for tool in tools if tool.name == wanted.name)
    if not named:
        raise InvalidRequestError("There is no tool of this name.", wanted.field)
    return ToolChoice(tuple(tools), named, is_forced=True, is_parallel=False)


def _check(tools: Sequence[Tool]) -> None:
    """Refuses names that are not one's own, and arguments that are no object."""
    names = set()
    for tool in tools:
        if tool.name in names:
            raise InvalidRequestError("Two tools have this name.", (*tool.field[:-1], "name"))
        names.add(tool.name)
        if tool.parameters.get("type", "object") != "object":
            raise InvalidSchemaError(
                "A tool's arguments are an object, so its schema's type is `object`.",
                (*tool.field, "type"),
            )


class ToolCallingModel(Protocol):
    """A model that may call tools."""

    @property
    def tool_call_format(self) -> ToolCallFormat:
        """The format of its calls; raises InvalidRequestError if it calls no tools."""


def call_format(
    model: ToolCallingModel,
    choice: ToolChoice | None,
    messages: Sequence[ChatMessage],
    field: FieldPath,
) -> ToolCallFormat | None:
    """How the model writes calls, if the answer may be one; None is an answer of text alone.

    Raises:
        InvalidRequestError: the answer may be a call, or the conversation at `field` tells of
            some, and the model does not know how.
    """
    if choice is None and not any(message.tool_calls for message in messages):
        return None
    try:
        written = model.tool_call_format
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), field if choice is None else ("tools",)) from None
    return None if choice is None else written


def answer_grammar(
    choice: ToolChoice | None, written: ToolCallFormat | None, shape: GrammarSource | None
) -> GrammarSource | None:
    """The grammar of answers that may be calls, or else have a shape; None is any text.

    Raises:
        InvalidRequestError: the shape does not go with calls.
    """
    if choice is None or written is None:
        return shape
    if shape is not None and shape.kind != "json_schema":
        raise InvalidRequestError(
            "Beside tools answers are shaped by JSON schemas alone: leave this out, or the tools.",
            shape.field[:1],
        )
    return tool_grammar(choice, written, shape)
