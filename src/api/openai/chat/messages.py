"""Messages in requests of `/v1/chat/completions` and `/tokenize`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictStr
from pydantic_core import PydanticCustomError

from src.api.fields import (
    MAX_PARTS,
    MAX_TOOLS,
    SENT_BACK,
    NoEffect,
    Parsed,
    Refused,
    SentBack,
    WireRequest,
)
from src.api.openai.chat.tools import MessageCall

OLD_CALLS = "it is the older form of tools"
AUDIO = "the served models read and write text alone"


class TextPart(WireRequest):
    """A piece of a message's text."""

    type: Literal["text"] = Field(description="`text` alone.")
    text: StrictStr = Field(description="The text; parts are joined by line ends.")


def _join_parts(content: object) -> object:
    """A message's content as one text: parts are joined by line ends."""
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
        if not is_part or part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError(
                "invalid_value",
                'Part {index} must be {"type": "text", "text": "…"}',
                {"index": index},
            )
    return "\n".join(part["text"] for part in content)


_PartList = Annotated[list[TextPart], Field(max_length=MAX_PARTS)]
Content = Annotated[StrictStr, BeforeValidator(_join_parts, json_schema_input_type=str | _PartList)]


class ChatTurn(WireRequest):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="Who speaks; `developer` is `system`."
    )
    content: Content | None = Field(
        default=None,
        description="What is said: a text, or a list of parts of text. Not needed beside calls.",
    )
    tool_calls: list[MessageCall] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=MAX_TOOLS,
        description="What the assistant calls.",
    )
    tool_call_id: StrictStr | None = Field(
        default=None, description="Of the role `tool`: which call this is the result of."
    )
    name: Annotated[StrictStr | None, NoEffect("chat templates know roles and contents alone")] = (
        None
    )
    refusal: Annotated[None, Refused("a refusal is written as content")] = None
    annotations: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
    parsed: Parsed = None
    audio: Annotated[None, Refused(AUDIO)] = None
    function_call: Annotated[None, Refused(OLD_CALLS)] = None
