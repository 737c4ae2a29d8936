"""`tool_choice`, for all APIs: which tools an answer may call, and the grammar of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from src.engine.structured_output.source import GrammarSource
from src.errors import FieldPath, InvalidRequestError, InvalidSchemaError
from src.text.chat_template import ChatMessage
from src.tool_calling.described_tools import with_described_tools
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar

ChoiceWord = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The tool that the answer must call.

    Args:
        name: of the tool.
        field: path of the name in the request's body.
    """

    name: str
    field: FieldPath


@dataclass(frozen=True, slots=True)
class AllowedTools:
    """The tools that the answer may call; all tools stay in the prompt.

    Args:
        tools: at least one.
        is_required: the answer has at least one call.
    """

    tools: tuple[NamedTool, ...]
    is_required: bool


def choose(
    tools: Sequence[Tool], wanted: ChoiceWord | NamedTool | AllowedTools, *, is_parallel: bool
) -> ToolChoice | None:
    """Resolves `tool_choice` to the tools that an answer may or must call; None is no tools.

    Args:
        tools: the request's tools.
        wanted: `none`, `auto` (any number of calls), `required` (at least one), one tool, or
            several allowed tools.
        is_parallel: the answer may have several calls.

    Raises:
        InvalidRequestError: the choice names no tool of the request, or the tools are invalid.
    """
    if not tools and wanted not in ("none", "auto"):
        raise InvalidRequestError("There are no tools to choose from.", ("tool_choice",))
    if not tools or wanted == "none":
        return None
    _check_tools(tools)
    if isinstance(wanted, NamedTool):
        return ToolChoice(tuple(tools), (_find(wanted, tools),), is_forced=True, is_parallel=False)
    callable_tools = tuple(tools)
    is_forced = wanted == "required"
    if isinstance(wanted, AllowedTools):
        allowed = {_find(named, tools).name for named in wanted.tools}
        callable_tools = tuple(tool for tool in tools if tool.name in allowed)
        is_forced = wanted.is_required
    return ToolChoice(tuple(tools), callable_tools, is_forced, is_parallel)


def _find(named: NamedTool, tools: Sequence[Tool]) -> Tool:
    for tool in tools:
        if tool.name == named.name:
            return tool
    raise InvalidRequestError("There is no tool of this name.", named.field)


def _check_tools(tools: Sequence[Tool]) -> None:
    """Refuses names that two tools share, and schemas of arguments that are not objects."""
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
    """A model that may have a format of tool calls."""

    @property
    def tool_call_format(self) -> ToolCallFormat:
        """The format; raises InvalidRequestError if the model has none."""


@dataclass(frozen=True, slots=True)
class ToolPrompt:
    """The part of a request that the chat template gets.

    Args:
        messages: the turns.
        tools: tools for the template's own place.
        tool_format: the model's format of calls; None if the answer may not have any.
    """

    messages: list[ChatMessage]
    tools: tuple[Tool, ...]
    tool_format: ToolCallFormat | None


def tool_prompt(
    model: ToolCallingModel,
    choice: ToolChoice | None,
    messages: list[ChatMessage],
    field: FieldPath,
) -> ToolPrompt:
    """Returns a conversation with its tools as the model's chat template can render it.

    Args:
        model: the model.
        choice: tools of the answer.
        messages: the conversation.
        field: path of the conversation in the request's body.

    Raises:
        InvalidRequestError: the answer may have calls, or the conversation has some, and the model
            has no format of calls.
    """
    if choice is None and not any(message.tool_calls for message in messages):
        return ToolPrompt(messages, (), None)
    try:
        tool_format = model.tool_call_format
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), field if choice is None else ("tools",)) from None
    tools = choice.tools if choice else ()
    if tool_format.tools_place != "template":
        messages, tools = with_described_tools(messages, tools, tool_format), ()
    return ToolPrompt(messages, tools, tool_format if choice else None)


def answer_grammar(
    choice: ToolChoice | None,
    tool_format: ToolCallFormat | None,
    answer_schema: GrammarSource | None,
) -> GrammarSource | None:
    """Returns the grammar of answers that call tools or follow a schema; None is any text.

    Args:
        choice: tools of the answer; None is no tools.
        tool_format: the model's format of calls.
        answer_schema: structured output of answers without calls.

    Raises:
        InvalidRequestError: the structured output does not go with tools.
    """
    if choice is None or tool_format is None:
        return answer_schema
    if answer_schema is not None and answer_schema.kind != "json_schema":
        raise InvalidRequestError(
            "With tools a JSON schema is the only structured output: leave this out, or the tools.",
            answer_schema.field[:1],
        )
    return tool_grammar(choice, tool_format, answer_schema)
