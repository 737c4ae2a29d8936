"""Wire models of messages and their blocks: texts, tool calls and their results."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictStr, Tag

from src.api.fields.shared import (
    ANYTHING,
    MAX_PARTS,
    SENT_BACK,
    FunctionName,
    NoEffect,
    WireRequest,
)
from src.api.fields.tagged_items import known_types, tag_by_type

CACHED = NoEffect("prompt prefixes are cached without it", silent=ANYTHING)


class CacheControl(WireRequest):
    """Mark of a position up to which a prompt may be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(WireRequest):
    """Text block of a message."""

    type: Literal["text"]
    text: StrictStr
    cache_control: Annotated[CacheControl | None, CACHED] = None
    citations: Annotated[Any, NoEffect("citations are not supported")] = None


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


_TextBlocks = Annotated[list[TextBlock], Field(fail_fast=True, max_length=MAX_PARTS)]
TextContent = Annotated[
    _TextBlocks, known_types(_TextBlocks, "text", noun="Block", from_text=_text_block)
]


class ThinkingBlock(WireRequest):
    """A thought in an earlier answer."""

    type: Literal["thinking"]
    thinking: StrictStr = Field(description="The thought; the template decides on its use.")
    signature: Annotated[
        StrictStr | None, NoEffect("thoughts are not verified", silent=ANYTHING)
    ] = None


class RedactedThinkingBlock(WireRequest):
    """An encrypted thought in an earlier answer, of another server."""

    type: Literal["redacted_thinking"]
    data: Annotated[StrictStr, NoEffect("it cannot be read here")]


class ToolUseBlock(WireRequest):
    """A tool call in an earlier answer."""

    type: Literal["tool_use"]
    id: StrictStr = Field(min_length=1, description="Id that its result refers to.")
    name: FunctionName = Field(description="Name of the tool.")
    input: dict[str, Any] = Field(description="Arguments.")
    cache_control: Annotated[CacheControl | None, CACHED] = None
    toolset_name: Annotated[StrictStr | None, NoEffect("there are no tool sets")] = None
    caller: Annotated[dict[str, Any] | None, SENT_BACK] = None


class ToolResultBlock(WireRequest):
    """Result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: StrictStr = Field(description="Id of the call.")
    content: TextContent | None = Field(default=None, description="Result: a text, or text blocks.")
    is_error: Annotated[StrictBool | None, NoEffect("say it in the content")] = None
    cache_control: Annotated[CacheControl | None, CACHED] = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")],
    Discriminator(
        tag_by_type("tool_use", "tool_result", "thinking", "redacted_thinking", default="text")
    ),
]
_Blocks = Annotated[list[Block], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = Annotated[
    _Blocks,
    known_types(
        _Blocks,
        "text",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
        noun="Block",
        from_text=_text_block,
    ),
]


def text_of(content: Sequence[Any] | None) -> str:
    """Joins the text blocks with line ends; other blocks are skipped."""
    return "\n".join(block.text for block in content or () if isinstance(block, TextBlock))


def thought_of(content: Sequence[Any]) -> str | None:
    """Joins the thoughts with line ends; None without one."""
    thoughts = [block.thinking for block in content if isinstance(block, ThinkingBlock)]
    return "\n".join(thought for thought in thoughts if thought) or None


class MessageTurn(WireRequest):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"] = Field(description="Author.")
    content: Content = Field(
        description="A text, or blocks: text, thoughts, tool calls and their results."
    )
