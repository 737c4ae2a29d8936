"""Tools that an answer may call, for APIs that tell of them each in its own shape."""

from collections.abc import Sequence

from src.engine.chat_template import ChatMessage
from src.engine.grammar import GrammarSource
from src.errors import InvalidRequestError, InvalidSchemaError
from src.inference import InferenceEngine
from src.tool_calls import Tool, ToolCallFormat, ToolChoice, tool_grammar


def choose(
    tools: Sequence[Tool], *, named: str | None, is_forced: bool, is_parallel: bool
) -> ToolChoice:
    """Which tools an answer may or must call.

    Args:
        tools: at least one.
        named: the one that must be called; None leaves it open.
        is_forced: one must be called.
        is_parallel: several calls may be made.

    Raises:
        InvalidRequestError: these do not go together.
    """
    names = [tool.name for tool in tools]
    for index, tool in enumerate(tools):
        if tool.name in names[:index]:
            raise InvalidRequestError("Two tools have this name.", ("tools", index, "name"))
        if tool.parameters.get("type", "object") != "object":
            raise InvalidSchemaError(
                "A tool's arguments are an object, so its schema's type is `object`.",
                (*tool.field, "type"),
            )
    if named is None:
        return ToolChoice(tuple(tools), tuple(tools), is_forced, is_parallel)
    if named not in names:
        raise InvalidRequestError("There is no tool of this name.", ("tool_choice", "name"))
    chosen = (tools[names.index(named)],)
    return ToolChoice(tuple(tools), chosen, is_forced=True, is_parallel=False)


def call_format(
    engine: InferenceEngine,
    choice: ToolChoice | None,
    messages: Sequence[ChatMessage],
    field: tuple[str | int, ...],
) -> ToolCallFormat | None:
    """How the model writes calls, if the answer may be one; None is an answer of text alone.

    Raises:
        InvalidRequestError: the answer may be a call, or the conversation at `field` tells of
            some, and the model does not know how.
    """
    if choice is None and not any(message.tool_calls for message in messages):
        return None
    try:
        written = engine.tool_call_format
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), field if choice is None else ("tools",)) from None
    return None if choice is None else written


def call_grammars(choice: ToolChoice | None, written: ToolCallFormat | None) -> list[GrammarSource]:
    """The grammar of answers that may be calls; none if they may not."""
    return [] if choice is None or written is None else [tool_grammar(choice, written)]
