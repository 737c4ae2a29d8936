"""Formats of tool calls, and their detection from a model's chat template."""

import dataclasses
import re
from dataclasses import dataclass

from src.engine.config import ToolCallFormatName
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """Format of a call: a JSON object of name and arguments between two tags.

    Args:
        name: of the format.
        begin: opening tag; empty if an answer that begins with a brace is a call.
        end: closing tag.
        arguments_key: key of the arguments in the JSON object.
        separator: text between two calls; None allows a single call.
        special_tokens: tags that are special tokens of the model, with their ids.
    """

    name: str
    begin: str
    end: str
    arguments_key: str
    separator: str | None
    special_tokens: tuple[tuple[str, int], ...] = ()

    @property
    def tag(self) -> str:
        """The opening tag without whitespace: it begins a call wherever it stands."""
        return self.begin.strip()


HERMES = ToolCallFormat("hermes", "<tool_call>\n", "\n</tool_call>", "arguments", "\n")
LLAMA3 = ToolCallFormat("llama3", "", "", "parameters", None)
FORMATS = {tool_format.name: tool_format for tool_format in (HERMES, LLAMA3)}

PROBE_NAME = "probe_tool"
PROBE = {
    "type": "function",
    "function": {
        "name": PROBE_NAME,
        "description": "Shows whether the template lists tools.",
        "parameters": {"type": "object", "properties": {}},
    },
}
"""A tool; its name shows up in the prompt if the template lists tools."""


def find_format(template: ChatTemplate, name: ToolCallFormatName) -> ToolCallFormat:
    """Returns the format of a model's calls.

    Args:
        template: the model's chat template.
        name: TOOL_CALL_FORMAT; `auto` detects the format from the template.

    Raises:
        InvalidRequestError: the template lists no tools, or its format is unknown.
    """
    if not _lists_tools(template):
        raise InvalidRequestError(
            "The model's chat template has no place for tools, so it cannot call any. Leave tools"
            " out, or have the server started with a CHAT_TEMPLATE that lists them.",
            ("tools",),
        )
    tool_format = _detect_format(template) if name == "auto" else FORMATS[name]
    if tool_format is None:
        raise InvalidRequestError(
            "The model's chat template does not show in which of the known formats it calls tools."
            " Have the server started with TOOL_CALL_FORMAT, if it is one of them.",
            ("tools",),
        )
    return _with_special_tokens(tool_format, template)


def _with_special_tokens(tool_format: ToolCallFormat, template: ChatTemplate) -> ToolCallFormat:
    """Returns the format with the ids of those tags that are special tokens of the model."""
    tags = [tag for tag in (tool_format.tag, tool_format.end.strip()) if tag]
    ids = [(tag, template.special_token_id(tag)) for tag in tags]
    special_tokens = tuple((tag, token_id) for tag, token_id in ids if token_id is not None)
    if not special_tokens:
        return tool_format
    return dataclasses.replace(tool_format, special_tokens=special_tokens)


def _lists_tools(template: ChatTemplate) -> bool:
    try:
        text = template.render([ChatMessage("user", "Hello")], [PROBE])
    except InvalidRequestError:
        return False
    return PROBE_NAME in text


def _detect_format(template: ChatTemplate) -> ToolCallFormat | None:
    """Returns the format in which the template renders an earlier call, if it is known."""
    call = MessageToolCall("probe0001", PROBE_NAME, {"probe": "1"})
    conversation = [
        ChatMessage("user", "Hello"),
        ChatMessage("assistant", "", (call,)),
        ChatMessage("tool", "1", tool_call_id="probe0001", name=PROBE_NAME),
    ]
    try:
        text = template.render(conversation, [PROBE])
    except InvalidRequestError:
        return None
    for tool_format in FORMATS.values():
        begin, key = re.escape(tool_format.begin), tool_format.arguments_key
        if re.search(rf'{begin}\{{"name": ?"{PROBE_NAME}", ?"{key}": ?\{{', text):
            return tool_format
    return None
