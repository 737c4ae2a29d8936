"""Tools for chat templates without a place for them: described in the system message.

A call in the conversation becomes text of the assistant, its result a text of the user, unless the
template has a form for them.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from src.text.chat_template import ChatMessage, MessageToolCall
from src.tool_calling.arguments import Values
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import Tool

INTRODUCTION = "You can call functions. Each line between the tags describes one of them:"
FORM = "To call functions, write nothing after the calls, and write them in this form:"
RESULTS = "The results follow between <tool_response> and </tool_response>."


def with_described_tools(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], tool_format: ToolCallFormat
) -> list[ChatMessage]:
    """Returns a conversation that the template can render without tools.

    Args:
        messages: the conversation.
        tools: tools that the answer may call; there may be none.
        tool_format: the format of calls.
    """
    turns = list(messages)
    if not tool_format.is_in_template:
        turns = _without_calls(turns, tool_format)
    if not tools:
        return turns
    description = describe(tools, tool_format)
    role = tool_format.tools_place
    first = turns.pop(0).content if turns and turns[0].role == role else ""
    parts = (description, first) if role == "user" else (first, description)
    return [ChatMessage(role, "\n\n".join(filter(None, parts))), *turns]


def describe(tools: Sequence[Tool], tool_format: ToolCallFormat) -> str:
    """Returns the part of the system message about tools."""
    lines = [json.dumps(tool.to_template(), ensure_ascii=False) for tool in tools]
    example = tool_format.write_calls([("function_name", {"argument": "value"})])
    listed = "\n".join(["<tools>", *lines, "</tools>"])
    parts = [f"{INTRODUCTION}\n{listed}", f"{FORM}\n{example}"]
    return "\n\n".join(parts if tool_format.is_in_template else [*parts, RESULTS])


def _without_calls(
    messages: Sequence[ChatMessage], tool_format: ToolCallFormat
) -> list[ChatMessage]:
    """Returns the conversation with calls and results as text; adjacent results are one turn."""
    turns: list[ChatMessage] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "tool":
            results = [f"<tool_response>\n{turn.content}\n</tool_response>" for turn in group]
            turns.append(ChatMessage("user", "\n".join(results)))
        else:
            turns += [_without_call(turn, tool_format) for turn in group]
    return turns


def _without_call(message: ChatMessage, tool_format: ToolCallFormat) -> ChatMessage:
    if not message.tool_calls:
        return message
    calls = tool_format.write_calls([_to_pair(call) for call in message.tool_calls])
    content = f"{message.content}\n{calls}" if message.content else calls
    return replace(message, content=content, tool_calls=())


def _to_pair(call: MessageToolCall) -> tuple[str, Values]:
    assert isinstance(call.arguments, dict)  # they become text later, for some templates
    return call.name, call.arguments
