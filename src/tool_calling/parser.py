"""`ToolCallParser`: splits a streamed answer into text and tool calls, as events for any API."""

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from src.text.reasoning import prefix_length
from src.tool_calling.format import NAME, PATTERNS, ToolCallFormat
from src.tool_calling.grammar import Tool

NAME_PATTERN = r'([^\s"<>{}\[\]]+)'
"""Pattern of a tool's name."""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The beginning of a call.

    Args:
        index: number of the call in the answer, from 0.
        call_id: reference for the message with the call's result.
        name: of the tool.
    """

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """The next part of a call's arguments, a JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """The next part of the text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next part of the thought before text and calls; from no parser of calls."""

    text: str


Event = ReasoningDelta | ContentDelta | CallStarted | ArgumentsDelta


@dataclass(slots=True)
class ToolCall:
    """A call; its arguments may be incomplete."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """The sum of an answer's events: thought, text and calls."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case ReasoningDelta(text):
                self.reasoning += text
            case ContentDelta(text):
                self.content += text
            case CallStarted(_, call_id, name):
                self.calls.append(ToolCall(call_id, name))
            case ArgumentsDelta(index, text):
                self.calls[index].arguments += text


class TextReader:
    """A parser for answers without tools: all of the answer is text."""

    num_calls = 0

    def push(self, text: str) -> list[Event]:
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[Event]:
        return []


class ToolCallParser:
    """Parses the text of an answer by `tool_grammar` as it is generated.

    A state machine: `_read` is the method for the current state, and `_rest` the text that it has
    not consumed. Text that is a prefix of a tag stays in `_rest` until it is a tag or is not. A
    call that is cut before its tool's name is complete gives no events.

    Args:
        tool_format: the model's format of calls.
        tools: the tools that the answer may call.
        is_forced: the answer is calls alone.
        is_shaped: the answer is calls, or else JSON by a schema, in which a tag is text.
    """

    def __init__(
        self,
        tool_format: ToolCallFormat,
        tools: Sequence[Tool] = (),
        *,
        is_forced: bool = False,
        is_shaped: bool = False,
    ) -> None:
        self.num_calls = 0
        self._format = tool_format
        self._schemas = {tool.name: tool.parameters for tool in tools}
        self._is_forced = is_forced
        self._is_shaped = is_shaped and not is_forced
        before = (tool_format.tag, *tool_format.begin)
        between = (*tool_format.tail, *(tool_format.separator or ()))
        self._head = _head_pattern(before, tool_format)
        self._next_head = _head_pattern(between, tool_format)
        self._rest = ""
        self._read = self._read_start
        self._arguments = tool_format.arguments.create_reader({})

    def push(self, text: str) -> list[Event]:
        """Takes more text, and returns the new events."""
        self._rest += text
        return list(self._advance())

    def finish(self) -> list[Event]:
        """Returns the text held back at the end of the answer."""
        is_text = self._read in (self._read_start, self._read_text) and self._rest
        if self._is_shaped and self._format.tag:  # a prefix of a tag is no JSON
            is_text = ""
        return [ContentDelta(self._rest)] if is_text else []

    def _advance(self) -> Iterator[Event]:
        """Takes steps until one neither consumes text nor changes the state."""
        before = None
        while self._rest and before != (self._rest, self._read):
            before = (self._rest, self._read)
            event = self._read()
            if event is not None:
                yield event

    def _read_start(self) -> Event | None:
        """Chooses the state by the beginning of the answer."""
        if self._is_shaped:
            self._read_start_of_shaped()
        elif self._is_forced or (not self._format.tag and self._rest.startswith("{")):
            self._read = self._read_head
        else:
            self._read = self._read_text
        return None

    def _read_start_of_shaped(self) -> None:
        """Chooses between calls and JSON, or waits while the text is a prefix of a call."""
        tag = self._format.tag
        if tag:
            if self._rest.startswith(tag):
                self._read = self._read_head
            elif not tag.startswith(self._rest):
                self._read = self._read_all
        elif self._head.match(self._rest):
            self._read = self._read_head
        elif not _prefix_pattern(self._format.head).fullmatch(self._rest):
            self._read = self._read_all

    def _read_all(self) -> Event | None:
        """Emits all as text; a final state."""
        text, self._rest = self._rest, ""
        return ContentDelta(text)

    def _read_text(self) -> Event | None:
        """Emits text up to the next tag, or to a suffix that may become one."""
        tag = self._format.tag
        text, match, rest = self._rest.partition(tag) if tag else (self._rest, "", "")
        if match:
            self._read, self._rest = self._read_head, tag + rest
        else:
            held = prefix_length(text, tag)
            text, self._rest = text[: len(text) - held], text[len(text) - held :]
        return ContentDelta(text) if text else None

    def _read_head(self) -> Event | None:
        """Starts a call once the tool's name is complete; only calls may follow a tag."""
        match = self._head.match(self._rest)
        if match is None:
            return None
        self._rest = self._rest[match.end() :]
        self._read, self._head = self._read_arguments, self._next_head
        schema = self._schemas.get(match[1], {})
        self._arguments = self._format.arguments.create_reader(schema)
        self.num_calls += 1
        return CallStarted(self.num_calls - 1, f"call_{uuid.uuid4().hex[:24]}", match[1])

    def _read_arguments(self) -> Event | None:
        """Emits arguments up to their end."""
        text, self._rest = self._arguments.read(self._rest)
        if self._arguments.is_done:
            self._read = self._read_head
        return ArgumentsDelta(self.num_calls - 1, text) if text else None


def _head_pattern(before: Iterable[str], tool_format: ToolCallFormat) -> re.Pattern[str]:
    """Returns a pattern of the text between a call's beginning and its arguments.

    Args:
        before: pieces before the head of the call.
        tool_format: the format.
    """
    pieces = map(_piece_pattern, (*before, *tool_format.head))
    return re.compile(r"\s*" + "".join(pieces) + tool_format.arguments.beginning)


def _piece_pattern(piece: str) -> str:
    """Returns a pattern of a piece of a format, in which the amount of whitespace is free."""
    if piece in PATTERNS:
        return piece
    words = [re.escape(word) for word in re.split(r"\s+", piece)]
    return r"\s*".join(words).replace(re.escape(NAME), NAME_PATTERN)


def _prefix_pattern(pieces: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern of every prefix of the texts that the pieces of a head match."""
    atoms: list[str] = []
    for piece in pieces:
        if piece in PATTERNS:
            atoms.append(piece)
        else:
            before, name, after = piece.partition(NAME)
            atoms += [*map(re.escape, before), *[NAME_PATTERN] * bool(name), *map(re.escape, after)]
    pattern = ""
    for atom in reversed(atoms):
        pattern = f"(?:{atom}{pattern})?"
    return re.compile(pattern)
