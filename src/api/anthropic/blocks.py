"""What messages are made of: blocks of text, calls of tools, and their results."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictStr, Tag

from src.api.fields import MAX_PARTS, FunctionName, NoEffect, Refused, WireRequest
from src.api.tagged_items import known_types, tag_by_type

CACHED = "common beginnings of prompts are found without it"


class CacheControl(WireRequest):
    """A mark where a prompt may be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(WireRequest):
    """A piece of a message's text."""

    type: Literal["text"]
    text: StrictStr
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    citations: Annotated[None, Refused("nothing is cited")] = None


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


_TextBlocks = Annotated[list[TextBlock], Field(fail_fast=True, max_length=MAX_PARTS)]
TextContent = Annotated[
    _TextBlocks, known_types(_TextBlocks, "text", noun="Block", from_text=_text_block)
]


class ToolUseBlock(WireRequest):
    """A call of a tool in an earlier answer."""

    type: Literal["tool_use"]
    id: StrictStr = Field(min_length=1, description="By which its result is told.")
    name: FunctionName = Field(description="Of the tool.")
    input: dict[str, Any] = Field(description="Its arguments.")
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    toolset_name: Annotated[None, Refused("there are no sets of tools")] = None
    caller: Annotated[dict[str, Any] | None, NoEffect("answers come back as they were")] = None


class ToolResultBlock(WireRequest):
    """What a tool gave."""

    type: Literal["tool_result"]
    tool_use_id: StrictStr = Field(description="Of the call that this is the result of.")
    content: TextContent | None = Field(
        default=None, description="The result: a text, or blocks of text."
    )
    is_error: Annotated[StrictBool | None, NoEffect("say it in the content")] = None
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    Discriminator(tag_by_type("tool_use", "tool_result", default="text")),
]
_Blocks = Annotated[list[Block], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = Annotated[
    _Blocks,
    known_types(_Blocks, "text", "tool_use", "tool_result", noun="Block", from_text=_text_block),
]


def text_of(content: Sequence[Any] | None) -> str:
    """The blocks of text as one, joined by line ends."""
    return "\n".join(block.text for block in content or () if isinstance(block, TextBlock))


class MessageTurn(WireRequest):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"] = Field(description="Who speaks.")
    content: Content = Field(
        description="What is said, a text or blocks of text; calls of tools; their results."
    )
