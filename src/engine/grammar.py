"""What an answer must look like, as a caller says it: grammars before they are compiled."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from src.errors import InvalidSchemaError

GrammarKind = Literal["json_schema", "regex", "choice", "lark"]


# One space may follow a comma or a colon. A model that likes spaces finds no place for more.
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}
"""How answers in JSON are written; in a Lark grammar they are a schema's `x-guidance`."""

JSON_SIGN = ": %json "
"""In a Lark grammar, what stands between a rule's name and its JSON schema."""


class DeadEndError(Exception):
    """A sequence cannot go on under its grammar."""


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as it was sent.

    Args:
        kind: the language that it is written in.
        text: a JSON schema, a regular expression, a JSON list of texts, or a Lark grammar.
        field: where it stands in the request's body, for errors.
        parts: schemas in it; each is compiled by itself first, for errors of its own. Who gives
            some has written the rest of the grammar himself.
        special_token_ids: special tokens that it names; who gives some has written it himself.
    """

    kind: GrammarKind
    text: str
    field: tuple[str | int, ...] = dataclasses.field(default=(), compare=False)
    parts: "tuple[GrammarSource, ...]" = dataclasses.field(default=(), compare=False)
    special_token_ids: frozenset[int] = frozenset()


def schema_source(schema: dict[str, Any] | str, field: tuple[str | int, ...]) -> GrammarSource:
    """The grammar of answers in JSON that a schema allows, whose objects `close_objects` closes.

    Args:
        schema: as an object, or as the JSON of one.
        field: where it stands in the request.

    Raises:
        InvalidSchemaError: it is no JSON.
    """
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidSchemaError(
            "A schema must be JSON, without NaN and without hundreds of levels.", field
        ) from None
    return GrammarSource("json_schema", text, field)


def expanded_size(pattern: str) -> int:
    """About how many characters a regular expression has without counted repetitions.

    `(a{10}b){20}` is written out in 220. Of a pattern that is not valid it says something.
    """
    sizes = [0]  # of the groups that are open, the outermost first
    last, at = 0, 0  # the size of what a repetition would repeat
    while at < len(pattern):
        character = pattern[at]
        if character == "{" and (most := _largest_count(pattern, at)) is not None:
            sizes[-1] += last * (most - 1)
            last *= most
            at = pattern.index("}", at) + 1
            continue
        if character == "(":
            sizes.append(0)
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
        at = _end_of_atom(pattern, at)
    return sum(sizes)


def _largest_count(pattern: str, at: int) -> int | None:
    """The largest number in the repetition that begins here; None if none does."""
    inside = pattern[at + 1 : pattern.find("}", at)].replace(" ", "")
    counts = [count for count in inside.split(",") if count]
    if not counts or len(inside) > MAX_COUNT_LENGTH or not all(map(_is_number, counts)):
        return None
    return max(1, *map(int, counts))


MAX_COUNT_LENGTH = 40
"""A repetition is not longer; what is, the compiler refuses."""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _end_of_atom(pattern: str, at: int) -> int:
    """Where the character, escape or class that begins here ends."""
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] != "[":
        return at + 1
    at += 1
    for first in ("^", "]"):  # a bracket that comes first is a character
        at += pattern[at : at + 1] == first
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
