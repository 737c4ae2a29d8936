"""`ToolCallFormat`: the texts by which a model writes tool calls, as data.

`formats/` has one module for each format, `grammar.py` enforces a format, and `parser.py` reads it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from src.tool_calling.arguments import JSON_ARGUMENTS, Arguments, Values

SPACE = " ?"
"""A piece of a format: at most one space."""

SHORT_ID = "[a-zA-Z0-9]{9}"
"""A piece of a format: an id of nine letters or digits."""

PATTERNS = {SPACE: "SPACE?", SHORT_ID: "SHORT_ID"}
"""Pieces that are regular expressions, and the Lark terms for them; all others are texts."""

NAME = "{name}"
"""Placeholder of the tool's name in a piece of a format."""

USUAL = {SPACE: " ", SHORT_ID: "000000000"}
"""Texts of `PATTERNS` in calls that are written for a prompt."""

ToolsPlace = Literal["template", "system", "user"]

Pieces = tuple[str, ...]
"""Texts and `PATTERNS` in their order. Each is one terminal of the grammar."""


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """Format of a model's calls.

    An answer with calls is: free text, `tag`, `begin`, the calls with `separator` between them,
    `end`. A call is: `head`, its arguments, `tail`.

    Args:
        name: of the format.
        tag: begins the calls wherever it stands; empty if an answer that begins with a brace is a
            call.
        begin: pieces between the tag and the first call.
        head: pieces of a call before its arguments, with `NAME` for the tool's name.
        arguments: notation of the arguments.
        tail: pieces of a call after its arguments.
        separator: pieces between two calls; None allows a single call.
        end: pieces after the last call.
        markers: texts of the format that are special tokens in some vocabularies.
        special_tokens: markers that are special tokens of the model, with their ids.
        tools_place: place of the tools' description: the chat template's, or the first message of a
            role, for templates without a place for tools.
        is_in_template: the chat template writes calls and their results.
    """

    name: str
    tag: str
    begin: Pieces
    head: Pieces
    tail: Pieces
    separator: Pieces | None
    end: Pieces
    arguments: Arguments = JSON_ARGUMENTS
    markers: Pieces = ()
    special_tokens: tuple[tuple[str, int], ...] = ()
    tools_place: ToolsPlace = "template"
    is_in_template: bool = True

    def write_calls(self, calls: Sequence[tuple[str, Values]]) -> str:
        """Returns calls as the model writes them, from pairs of name and arguments."""
        separator = _texts(self.separator or ())
        written = separator.join(
            _texts(named(self.head, name)) + self.arguments.write(arguments) + _texts(self.tail)
            for name, arguments in calls
        )
        return self.tag + _texts(self.begin) + written + _texts(self.end)

    def shows_in(self, text: str, name: str) -> bool:
        """Returns True if a rendered conversation has a call of this tool in this format."""
        pieces = (self.tag, *self.begin, *named(self.head, name))
        exact = "".join(piece if piece in PATTERNS else re.escape(piece) for piece in pieces)
        return re.search(exact + self.arguments.beginning, text) is not None


def _texts(pieces: Pieces) -> str:
    """Returns the text of pieces, in which optional parts have their usual form."""
    return "".join(USUAL.get(piece, piece) for piece in pieces)


def json_head(key: str) -> Pieces:
    """Returns the head of a call that is a JSON object of name and arguments.

    It has one piece for each JSON token, as in free JSON: a prefix of a call may turn out to be
    other JSON.

    Args:
        key: key of the arguments.
    """
    name = ("{", '"name"', ":", SPACE, f'"{NAME}"', ",")
    return (*name, SPACE, json.dumps(key), ":", SPACE)


def named(pieces: Iterable[str], name: str) -> Pieces:
    """Returns the pieces with a tool's name in its place."""
    return tuple(piece.replace(NAME, name) for piece in pieces)
