"""Messages in requests of `/v1/chat/completions` and `/tokenize`."""

from collections.abc import Set
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictStr
from pydantic_core import PydanticCustomError

from src.api.fields.shared import (
    MAX_PARTS,
    MAX_TOOLS,
    SENT_BACK,
    NoEffect,
    Parsed,
    Refused,
    SentBack,
    WireRequest,
    may_ignore,
)
from src.api.openai.chat.tools import MessageCall

OLD_CALLS = "use tools instead"
AUDIO = "the served models read and write text alone"


class TextPart(WireRequest):
    """Text part of a message."""

    type: Literal["text"] = Field(description="`text` alone.")
    text: StrictStr = Field(description="Text; parts are joined with line ends.")


def _join_parts(content: object) -> object:
    """Joins the parts of a message with line ends."""
    if not isinstance(content, list):
        return content
    if len(content) > MAX_PARTS:
        raise PydanticCustomError(
            "too_long", "A message has at most {count} parts", {"count": MAX_PARTS}
        )
    for index, part in enumerate(content):
        is_part = isinstance(part, dict)
        if is_part and part.get("type") not in ("text", None):
            raise PydanticCustomError(
                "unsupported_parameter",
                "Part {index} is no text, and this model reads text alone",
                {"index": index},
            )
        if is_part:
            _record_extra(part.keys() - {"type", "text"})
        if not is_part or not isinstance(part.get("text"), str) or "type" not in part:
            raise PydanticCustomError(
                "invalid_value",
                'Part {index} must be {"type": "text", "text": "…"}',
                {"index": index},
            )
    return "\n".join(part["text"] for part in content)


def _record_extra(names: Set[str]) -> None:
    """Records unknown fields of a part; raises where they are refused."""
    if not may_ignore(sorted(names - {"cache_control"})):
        raise PydanticCustomError(
            "invalid_value", 'A part must be {"type": "text", "text": "…"} and nothing else'
        )


_PartList = Annotated[list[TextPart], Field(max_length=MAX_PARTS)]
Content = Annotated[StrictStr, BeforeValidator(_join_parts, json_schema_input_type=str | _PartList)]


class ChatTurn(WireRequest):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="Author; `developer` is the same as `system`."
    )
    content: Content | None = Field(
        default=None,
        description="A text, or a list of text parts. May be left out beside tool calls.",
    )
    tool_calls: list[MessageCall] | None = Field(
        fail_fast=True,
        default=None,
        max_length=MAX_TOOLS,
        description="Calls by the assistant; an empty list is none.",
    )
    tool_call_id: StrictStr | None = Field(
        default=None, description="Id of the call that a message of the role `tool` answers."
    )
    reasoning_content: StrictStr | None = Field(
        default=None, description="The assistant's thought; the template decides on its use."
    )
    reasoning: StrictStr | None = Field(
        default=None, description="Another name of `reasoning_content`."
    )
    name: Annotated[StrictStr | None, NoEffect("chat templates use role and content")] = None
    refusal: Annotated[None, Refused("send refusals as content")] = None
    annotations: Annotated[SentBack | None, SENT_BACK] = None
    parsed: Parsed = None
    audio: Annotated[None, Refused(AUDIO)] = None
    function_call: Annotated[None, Refused(OLD_CALLS)] = None

    @property
    def thought(self) -> str | None:
        """The thought, by either name; None without one."""
        return self.reasoning_content or self.reasoning or None
