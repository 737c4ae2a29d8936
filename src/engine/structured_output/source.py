"""What an answer must look like, as a caller says it: grammars before they are compiled."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from src.errors import FieldPath, InvalidSchemaError

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
    field: FieldPath = dataclasses.field(default=(), compare=False)
    parts: "tuple[GrammarSource, ...]" = dataclasses.field(default=(), compare=False)
    special_token_ids: frozenset[int] = frozenset()

    @property
    def part_fields(self) -> tuple[tuple[str | int, ...], ...]:
        """Places of the parts in the request, which equal sources of two requests may differ in."""
        return tuple(part.field for part in self.parts)


def schema_source(schema: dict[str, Any] | str, field: FieldPath) -> GrammarSource:
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


def to_values(source: GrammarSource) -> dict[str, Any]:
    """Returns a source as values that JSON has."""
    return {
        "kind": source.kind,
        "text": source.text,
        "field": list(source.field),
        "parts": [to_values(part) for part in source.parts],
        "special_token_ids": sorted(source.special_token_ids),
    }


def from_values(values: dict[str, Any]) -> GrammarSource:
    """Returns the source that `to_values` was given."""
    return GrammarSource(
        kind=values["kind"],
        text=values["text"],
        field=tuple(values["field"]),
        parts=tuple(map(from_values, values["parts"])),
        special_token_ids=frozenset(values["special_token_ids"]),
    )
