"""How a model writes calls of tools: the known formats, and which one its chat template shows."""

import dataclasses
import re
from dataclasses import dataclass

from src.engine.config import ToolCallFormatName
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """How a model writes calls: a JSON object of a name and arguments, between two texts.

    Args:
        name: of the format.
        begin: before each call; without it an answer is a call if it begins with a brace.
        end: after each call.
        arguments: what the arguments are called.
        separator: between two calls; None allows but one.
        special: texts in these that are special tokens of the model, with their ids.
    """

    name: str
    begin: str
    end: str
    arguments: str
    separator: str | None
    special: tuple[tuple[str, int], ...] = ()

    @property
    def tag(self) -> str:
        """What tells that a call begins, wherever it stands."""
        return self.begin.strip()


HERMES = ToolCallFormat("hermes", "<tool_call>\n", "\n</tool_call>", "arguments", "\n")
LLAMA3 = ToolCallFormat("llama3", "", "", "parameters", None)
FORMATS = {one.name: one for one in (HERMES, LLAMA3)}

PROBE = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Looks whether the template tells of tools.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def find_format(template: ChatTemplate, name: ToolCallFormatName) -> ToolCallFormat:
    """How a model that this template is for writes calls.

    Args:
        template: the model's.
        name: `auto` is as the template writes calls of earlier turns.

    Raises:
        InvalidRequestError: the template has no place for tools, or writes calls in another way.
    """
    if not _tells_of_tools(template):
        raise InvalidRequestError(
            "The model's chat template has no place for tools, so it cannot call any. Leave tools"
            " out, or have the server started with a CHAT_TEMPLATE that lists them.",
            ("tools",),
        )
    found = _find_written(template) if name == "auto" else FORMATS[name]
    if found is None:
        raise InvalidRequestError(
            "The model's chat template does not show in which of the known ways it calls tools."
            " Have the server started with TOOL_CALL_FORMAT, if it is one of them.",
            ("tools",),
        )
    return _with_special_tokens(found, template)


def _with_special_tokens(written: ToolCallFormat, template: ChatTemplate) -> ToolCallFormat:
    """The same, if the model knows the tags as special tokens and so does not spell them."""
    tags = [text for text in (written.begin.strip(), written.end.strip()) if text]
    ids = [(tag, template.special_token_id(tag)) for tag in tags]
    special = tuple((tag, token_id) for tag, token_id in ids if token_id is not None)
    return dataclasses.replace(written, special=special) if special else written


def _tells_of_tools(template: ChatTemplate) -> bool:
    try:
        text = template.render([ChatMessage("user", "Hello")], [PROBE])
    except InvalidRequestError:
        return False
    return "probe_tool" in text


def _find_written(template: ChatTemplate) -> ToolCallFormat | None:
    call = MessageToolCall("probe0001", "probe_tool", {"probe": "1"})
    conversation = [
        ChatMessage("user", "Hello"),
        ChatMessage("assistant", "", (call,)),
        ChatMessage("tool", "1", tool_call_id="probe0001", name="probe_tool"),
    ]
    try:
        text = template.render(conversation, [PROBE])
    except InvalidRequestError:
        return None
    for one in FORMATS.values():
        head = rf'{re.escape(one.begin)}\{{"name": ?"probe_tool", ?"{one.arguments}": ?\{{'
        if re.search(head, text):
            return one
    return None
