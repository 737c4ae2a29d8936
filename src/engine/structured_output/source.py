"""Grammars of requests before they are compiled."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from src.errors import FieldPath, InvalidSchemaError

GrammarKind = Literal["json_schema", "regex", "choice", "lark"]


# At most one space after a comma or colon: a small model can loop on whitespace.
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}
"""llguidance's options for JSON; in a Lark grammar they are a schema's `x-guidance`."""

JSON_SIGN = ": %json "
"""Separator of a rule's name and its JSON schema in a Lark grammar."""


class DeadEndError(Exception):
    """The grammar lets a sequence neither continue nor end."""


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """The text of a grammar and its place in the request.

    Only generated grammars have `parts` or `special_token_ids`; their parts are the client's.

    Args:
        kind: language of the text.
        text: a JSON schema, a regular expression, a JSON list of strings, or a Lark grammar.
        field: path in the request's body, for errors.
        parts: schemas of the request in the grammar. Each is compiled by itself first, so that
            errors name its field.
        special_token_ids: special tokens that the grammar names.
    """

    kind: GrammarKind
    text: str
    field: FieldPath = dataclasses.field(default=(), compare=False)
    parts: "tuple[GrammarSource, ...]" = dataclasses.field(default=(), compare=False)
    special_token_ids: frozenset[int] = frozenset()

    @property
    def part_fields(self) -> tuple[FieldPath, ...]:
        """Fields of the parts; equal sources of two requests may differ in them."""
        return tuple(part.field for part in self.parts)


def schema_source(schema: dict[str, Any] | str, field: FieldPath) -> GrammarSource:
    """Returns the grammar of a JSON schema. `close_objects` closes its objects later.

    Args:
        schema: the schema, or its JSON text.
        field: path in the request's body.

    Raises:
        InvalidSchemaError: it is not valid JSON.
    """
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidSchemaError(
            "A schema must be valid JSON, without NaN, and not nested hundreds of levels.", field
        ) from None
    return GrammarSource("json_schema", text, field)


def to_values(source: GrammarSource) -> dict[str, Any]:
    """Returns a source as JSON values."""
    return {
        "kind": source.kind,
        "text": source.text,
        "field": list(source.field),
        "parts": [to_values(part) for part in source.parts],
        "special_token_ids": sorted(source.special_token_ids),
    }


def from_values(values: dict[str, Any]) -> GrammarSource:
    """Returns a source from the values of `to_values`."""
    return GrammarSource(
        kind=values["kind"],
        text=values["text"],
        field=tuple(values["field"]),
        parts=tuple(map(from_values, values["parts"])),
        special_token_ids=frozenset(values["special_token_ids"]),
    )
