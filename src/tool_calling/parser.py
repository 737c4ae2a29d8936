"""Reads calls of tools out of an answer while it comes: text and calls, as events for any API."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from src.tool_calling.format import ToolCallFormat


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call has begun.

    Args:
        index: which of the answer's calls.
        call_id: by which its result is told.
        name: of the tool.
    """

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of a call's arguments, which are JSON in the end."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the text that is no call."""

    text: str


Event = ContentDelta | CallStarted | ArgumentsDelta


@dataclass(slots=True)
class ToolCall:
    """A call, as far as it is written."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """What a parser's events make up: text, or calls, or both."""

    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case ContentDelta(text):
                self.content += text
            case CallStarted(_, call_id, name):
                self.calls.append(ToolCall(call_id, name))
            case ArgumentsDelta(index, text):
                self.calls[index].arguments += text


class TextReader:
    """Reads an answer that calls no tools: all of it is text."""

    num_calls = 0

    def push(self, text: str) -> list[Event]:
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[Event]:
        return []


class ToolCallParser:
    """Reads the text of an answer that `tool_grammar` shapes, as it comes.

    Text that could become a tag is held back until it is one, or is none. Of a call that is cut
    before its tool is known nothing is told.

    Args:
        written: how calls are.
        is_forced: there is nothing but calls.
        is_shaped: there are calls, or else JSON, in which nothing is a tag.
    """

    def __init__(
        self, written: ToolCallFormat, *, is_forced: bool = False, is_shaped: bool = False
    ) -> None:
        self.num_calls = 0
        self._written = written
        self._is_forced = is_forced
        self._is_shaped = is_shaped and not is_forced
        head = ['\\{"name":', " ?", '"', '([^"]+)', '",', " ?", f'"{written.arguments}":', " ?"]
        self._head = re.compile(r"\s*" + "".join(head) + r"(?=\{)")
        self._beginning = _beginning_of(head)
        self._rest = ""  # not told yet
        self._read = self._read_start
        self._scanner = _ObjectScanner()

    def push(self, text: str) -> list[Event]:
        """Takes more text, and returns what is new."""
        self._rest += text
        return list(self._advance())

    def finish(self) -> list[Event]:
        """Returns what was held back, as no more text comes."""
        is_text = self._read in (self._read_start, self._read_text) and self._rest
        if self._is_shaped and self._written.tag:  # its JSON does not begin as a tag does
            is_text = ""
        return [ContentDelta(self._rest)] if is_text else []

    def _advance(self) -> Iterator[Event]:
        """Reads on, by one step after the other, until one needs more text."""
        before = None
        while self._rest and before != (self._rest, self._read):
            before = (self._rest, self._read)
            event = self._read()
            if event is not None:
                yield event

    def _read_start(self) -> Event | None:
        if self._is_shaped:
            self._read_start_of_shaped()
        elif not self._written.tag and self._rest.startswith("{"):
            self._read = self._read_head
        else:
            self._read = self._read_between if self._is_forced else self._read_text
        return None

    def _read_start_of_shaped(self) -> None:
        """What begins as a call is one; while it may yet turn out to be one it waits."""
        tag = self._written.tag
        if tag:
            if self._rest.startswith(tag):
                self._read = self._read_between
            elif not tag.startswith(self._rest):
                self._read = self._read_all
        elif self._head.match(self._rest):
            self._read = self._read_head
        elif not self._beginning.fullmatch(self._rest):
            self._read = self._read_all

    def _read_all(self) -> Event | None:
        """Where nothing is a call any more."""
        text, self._rest = self._rest, ""
        return ContentDelta(text)

    def _read_text(self) -> Event | None:
        tag = self._written.tag
        text, found, rest = self._rest.partition(tag) if tag else (self._rest, "", "")
        if found:
            self._read, self._rest = self._read_head, rest
        else:
            held = _length_of_beginning(text, tag)
            text, self._rest = text[: len(text) - held], text[len(text) - held :]
        return ContentDelta(text) if text else None

    def _read_head(self) -> Event | None:
        found = self._head.match(self._rest)
        if found is None:
            return None
        self._rest = self._rest[found.end() :]
        self._read, self._scanner = self._read_arguments, _ObjectScanner()
        self.num_calls += 1
        return CallStarted(self.num_calls - 1, f"call_{uuid.uuid4().hex[:24]}", found[1])

    def _read_arguments(self) -> Event | None:
        length = self._scanner.find_end(self._rest)
        text, self._rest = self._rest[:length], self._rest[length:]
        if self._scanner.is_done:
            self._read = self._read_between
        return ArgumentsDelta(self.num_calls - 1, text)

    def _read_between(self) -> Event | None:
        """Where nothing but a call can come."""
        tag = self._written.tag
        if tag and tag in self._rest:
            self._read, self._rest = self._read_head, self._rest.partition(tag)[2]
        return None


class _ObjectScanner:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._in_text = False
        self._is_escaped = False

    def find_end(self, text: str) -> int:
        """How many of these characters belong to the object."""
        for index, character in enumerate(text):
            self._take(character)
            if self.is_done:
                return index + 1
        return len(text)

    def _take(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_text:
            self._is_escaped = character == "\\"
            self._in_text = character != '"'
        elif character == '"':
            self._in_text = True
        elif character in "{}":
            self._depth += 1 if character == "{" else -1
            self.is_done = self._depth == 0


def _beginning_of(pieces: list[str]) -> re.Pattern[str]:
    """What matches any beginning of a text that these patterns match in a row.

    Args:
        pieces: patterns of one character or a class that is repeated, or texts without patterns.
    """
    atoms: list[str] = []
    for piece in pieces:
        is_pattern = piece == " ?" or piece.startswith("(")
        atoms += [piece] if is_pattern else re.findall(r"\\?.", piece)
    pattern = ""
    for atom in reversed(atoms):
        pattern = f"(?:{atom}{pattern})?"
    return re.compile(pattern)


def _length_of_beginning(text: str, tag: str) -> int:
    """How many characters at the end of a text could be the beginning of the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
