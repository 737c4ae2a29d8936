"""Thoughts of reasoning models: detection of their format, and a splitter of streamed answers.

A reasoning model writes a thought between two tags before its answer. The chat template may open
the thought at the end of the prompt, or close it there to turn thinking off.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from src.text.chat_template import ChatTemplate

BEGIN, END = "<think>", "</think>"
"""Tags of Qwen3, DeepSeek-R1, SmolLM3, GLM and most other reasoning models."""

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on or off; the first is the most common one."""

NUM_TAIL_TOKENS = 24
"""Tokens at the end of a prompt that can hold a tag, spelled in single bytes at worst."""


class ThoughtStart(Enum):
    """State of the thought at the beginning of an answer."""

    OPEN = "open"  # the prompt has opened it
    POSSIBLE = "possible"  # the answer may begin with the tag
    NONE = "none"  # the prompt has closed it, so thinking is off


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """Format of a model's thoughts: text between two tags.

    Args:
        begin: opening tag.
        end: closing tag.
        begin_ids: tokens of the opening tag.
        end_ids: tokens of a line end and the closing tag, which end a thought early.
        special_token_ids: tags that are special tokens of the model.
    """

    begin: str
    end: str
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    special_token_ids: frozenset[int] = frozenset()

    def start_after(self, prompt_end: str) -> ThoughtStart:
        """Returns the state of the thought after a prompt that ends with this text."""
        prompt_end = prompt_end.rstrip()
        if prompt_end.endswith(self.begin):
            return ThoughtStart.OPEN
        is_closed = prompt_end.endswith(self.end)
        return ThoughtStart.NONE if is_closed else ThoughtStart.POSSIBLE


def find_reasoning_format(template: ChatTemplate, name: str) -> ReasoningFormat | None:
    """Returns the format of a model's thoughts; None if its answers have none.

    Args:
        template: the model's chat template.
        name: REASONING_FORMAT; `auto` detects the tags in the template's source.
    """
    if name == "none":
        return None
    if name == "auto" and BEGIN not in template.source and END not in template.source:
        return None
    ids = [template.special_token_id(tag) for tag in (BEGIN, END)]
    return ReasoningFormat(
        BEGIN,
        END,
        tuple(template.encode_text(BEGIN)),
        tuple(template.encode_text("\n" + END)),
        frozenset(token_id for token_id in ids if token_id is not None),
    )


def find_switch(template: ChatTemplate) -> str | None:
    """Returns the template's variable that turns thinking on or off; None if it has none."""
    return next((name for name in SWITCHES if name in template.variables), None)


class SplitText(NamedTuple):
    """New text of an answer: of its thought, and of its content."""

    reasoning: str = ""
    content: str = ""


class _Phase(Enum):
    BEFORE = "before"  # the opening tag may come
    INSIDE = "inside"
    AFTER = "after"  # whitespace between the closing tag and the content
    CONTENT = "content"


class ThoughtSplitter:
    """Splits the streamed text of an answer into its thought and its content.

    Text that may become a tag is held back. Whitespace around the thought and after its closing tag
    is dropped. All that `push` and `finish` return adds up to the same two texts, however the
    answer is cut into deltas.

    Args:
        begin: opening tag.
        end: closing tag.
        is_open: the prompt has opened the thought; the answer may repeat the tag.
        strips_content: drop whitespace between the closing tag and the content.
    """

    def __init__(self, begin: str, end: str, *, is_open: bool, strips_content: bool = True) -> None:
        self._begin, self._end = begin, end
        self._is_open = is_open
        self._strips_content = strips_content
        self._phase = _Phase.BEFORE
        self._rest = ""  # text held back
        self._has_begun = False  # the thought has text

    @property
    def is_undecided(self) -> bool:
        """True while the text so far may be a thought or content."""
        return self._phase is _Phase.BEFORE and not self._is_open

    @property
    def is_thinking(self) -> bool:
        """True inside of the thought."""
        return self._phase is _Phase.INSIDE or (self._phase is _Phase.BEFORE and self._is_open)

    @property
    def has_content(self) -> bool:
        """True once the content has begun."""
        return self._phase is _Phase.CONTENT

    def push(self, text: str) -> SplitText:
        """Takes more text; returns the text that is now certain."""
        self._rest += text
        reasoning = content = ""
        if self._phase is _Phase.BEFORE:
            self._read_begin()
        if self._phase is _Phase.INSIDE:
            reasoning = self._read_thought()
        if self._phase is _Phase.AFTER:
            self._rest = self._rest.lstrip() if self._strips_content else self._rest
            if self._rest:
                self._phase = _Phase.CONTENT
        if self._phase is _Phase.CONTENT:
            content, self._rest = self._rest, ""
        return SplitText(reasoning, content)

    def finish(self) -> SplitText:
        """Returns the text held back at the end of the answer."""
        rest, self._rest = self._rest, ""
        if self.is_thinking:
            return SplitText(reasoning=rest.strip() if not self._has_begun else rest.rstrip())
        if self._phase is _Phase.BEFORE:
            self._phase = _Phase.CONTENT
        return SplitText(content=rest)

    def drop_rest(self) -> None:
        """Begins the content with the next token, after a token that closes the thought."""
        self._rest, self._phase = "", _Phase.CONTENT

    def _read_begin(self) -> None:
        text = self._rest.lstrip()
        if text.startswith(self._begin):
            self._rest, self._phase = text[len(self._begin) :], _Phase.INSIDE
        elif not self._begin.startswith(text):
            self._phase = _Phase.INSIDE if self._is_open else _Phase.CONTENT

    def _read_thought(self) -> str:
        """Returns the new text of the thought, up to a tail that may precede the closing tag."""
        if not self._has_begun:
            self._rest = self._rest.lstrip()
        text, tag, rest = self._rest.partition(self._end)
        if tag:
            self._rest, self._phase = rest, _Phase.AFTER
            text = text.rstrip()
        else:
            text = text[: len(text) - prefix_length(text, self._end)].rstrip()
            self._rest = self._rest[len(text) :]
        self._has_begun = self._has_begun or bool(text)
        return text


def prefix_length(text: str, tag: str) -> int:
    """Returns the length of the longest suffix of a text that is a proper prefix of the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
