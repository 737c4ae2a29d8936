"""Detection of the format of a model's tool calls from its chat template."""

import dataclasses
from contextlib import suppress

from src.engine.config import ToolCallFormatName
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall
from src.tool_calling.format import ToolCallFormat, ToolsPlace
from src.tool_calling.formats import FORMATS
from src.tool_calling.formats.hermes import HERMES

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


@dataclasses.dataclass(frozen=True, slots=True)
class DetectedFormat:
    """Format of the model's tool calls, or the reason why it has none."""

    tool_format: ToolCallFormat | None = None
    problem: str = ""

    def require(self) -> ToolCallFormat:
        """Returns the format; raises InvalidRequestError if there is none."""
        if self.tool_format is None:
            raise InvalidRequestError(self.problem, ("tools",))
        return self.tool_format


def detect(template: ChatTemplate | None, name: ToolCallFormatName) -> DetectedFormat:
    """Detects the format of a model with or without a chat template; as `find_format`.

    It renders conversations, so it is called while the model loads.
    """
    if template is None:
        return DetectedFormat()
    try:
        return DetectedFormat(find_format(template, name))
    except InvalidRequestError as error:
        return DetectedFormat(problem=str(error))


def find_format(template: ChatTemplate, name: ToolCallFormatName) -> ToolCallFormat:
    """Returns the format of a model's calls.

    Args:
        template: the model's chat template.
        name: TOOL_CALL_FORMAT; `auto` detects the format from the template.

    Raises:
        InvalidRequestError: the template reads tools but lists none, or its format is unknown.
    """
    if not _lists_tools(template):
        if template.reads_tools:
            raise InvalidRequestError(
                "The model's chat template does not list tools, so the model cannot call any. Leave"
                " tools out, or have the server started with a CHAT_TEMPLATE that lists them.",
                ("tools",),
            )
        return _describe_tools(template, name)
    tool_format = _detect_format(template) if name == "auto" else FORMATS[name]
    if tool_format is None:
        raise InvalidRequestError(
            "The model's chat template does not show in which of the known formats it calls tools."
            " Have the server started with TOOL_CALL_FORMAT, if it is one of them.",
            ("tools",),
        )
    return _with_special_tokens(tool_format, template)


def _describe_tools(template: ChatTemplate, name: ToolCallFormatName) -> ToolCallFormat:
    """Returns the format of calls for a template that has no place for tools.

    It is the one of the setting, or else the one in which the template writes calls, as DeepSeek's
    do, or else Hermes'.
    """
    shown = _detect_format(template)
    tool_format = (shown or HERMES) if name == "auto" else FORMATS[name]
    is_shown = tool_format == shown
    if is_shown:
        tool_format = _with_special_tokens(tool_format, template)
    return dataclasses.replace(
        tool_format, tools_place=_find_place(template), is_in_template=is_shown
    )


def _find_place(template: ChatTemplate) -> ToolsPlace:
    """Returns the role of the message that describes tools: some templates refuse `system`."""
    messages = [ChatMessage("system", PROBE_NAME), ChatMessage("user", "Hello")]
    with suppress(InvalidRequestError):
        if PROBE_NAME in template.render(messages):
            return "system"
    return "user"


def _with_special_tokens(tool_format: ToolCallFormat, template: ChatTemplate) -> ToolCallFormat:
    """Returns the format with the ids of those markers that are special tokens of the model."""
    ids = [(marker, template.special_token_id(marker)) for marker in tool_format.markers]
    special_tokens = tuple((marker, token_id) for marker, token_id in ids if token_id is not None)
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
    return next((known for known in FORMATS.values() if known.shows_in(text, PROBE_NAME)), None)
