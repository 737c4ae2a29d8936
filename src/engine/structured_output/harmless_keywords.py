"""JSON Schema keywords that the compiler refuses although they limit nothing, or hardly anything.

llguidance 1.x refuses every keyword that it does not implement. Where such a keyword limits no
value (`uniqueItems: false`, `propertyNames: {"type": "string"}`), the schema means the same
without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from src.engine.structured_output import schema_walk
from src.engine.structured_output.schema_walk import Schema

MAPS = (*schema_walk.MAPS, "dependentSchemas")
LISTS = schema_walk.LISTS
SINGLES = (
    *schema_walk.SINGLES,
    *("propertyNames", "contains", "if", "then", "else"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
"""Places of schemas in a schema: by name, in a list, or alone. Values elsewhere are data."""

ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$comment", "$schema", "$id"),
    }
)

STANDARD_FORMATS = frozenset(
    {
        *("date-time", "date", "time", "duration", "email", "idn-email", "hostname"),
        *("idn-hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid"),
        *("uri-template", "json-pointer", "relative-json-pointer", "regex"),
    }
)
"""Formats of JSON Schema 2020-12 (Validation, 7.3). Any other is an annotation."""

MAX_BOUND = 2**63 - 1024
"""The largest float64 below 2^63. llguidance makes patterns of bounds in int64 and negates them."""


def without_harmless_keywords(schema: Schema) -> Schema:
    """Returns a schema without keywords that limit nothing; the given one is left as it is.

    Bounds of numbers beyond MAX_BOUND become MAX_BOUND, which the compiler can keep. That makes a
    schema narrower at its far ends alone, so an answer still fits the given one.

    Raises:
        RecursionError: the schema is nested too deep.
    """
    part = {key: _inner(key, value) for key, value in schema.items()}
    for key, is_harmless in HARMLESS.items():
        if key in part and is_harmless(part[key], part):
            del part[key]
            if key == "unevaluatedProperties":  # it says that other properties are welcome
                part.setdefault("additionalProperties", True)
    return part | _narrowed_bounds(part)


def _inner(key: str, value: Any) -> Any:
    """The value of a keyword, with the schemas in it without harmless keywords."""
    if key in MAPS and isinstance(value, dict):
        return {name: _cleaned(one) for name, one in value.items()}
    if key in LISTS and isinstance(value, list):
        return [_cleaned(one) for one in value]
    return _cleaned(value) if key in SINGLES else value


def _cleaned(value: Any) -> Any:
    return without_harmless_keywords(value) if isinstance(value, dict) else value


def _narrowed_bounds(part: Schema) -> Schema:
    highs = dict.fromkeys(("maximum", "exclusiveMaximum"), MAX_BOUND)
    lows = dict.fromkeys(("minimum", "exclusiveMinimum"), -MAX_BOUND)
    return {key: bound for key, bound in (highs | lows).items() if _is_beyond(part.get(key), bound)}


def _is_beyond(value: Any, bound: int) -> bool:
    """Whether a number is farther from 0 than the bound, on the same side."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value > bound if bound > 0 else value < bound


def _takes_all(value: Any) -> bool:
    """Whether a schema takes every value."""
    return value is True or (isinstance(value, dict) and value.keys() <= ANNOTATIONS)


def _takes_all_texts(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is True
    kinds = value.get("type", "string")
    return value.keys() - {"type"} <= ANNOTATIONS and (
        kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    )


def _takes_any_number_of_matches(_: Any, part: Schema) -> bool:
    """Of `contains`: no match is needed, and any number is allowed."""
    return part.get("minContains") == 0 and "maxContains" not in part


def _adds_nothing(value: Any, _: Schema) -> bool:
    """Of keywords that add names or a schema where a property is there."""
    return isinstance(value, dict) and all(one == [] or _takes_all(one) for one in value.values())


def _decides_nothing(_: Any, part: Schema) -> bool:
    """Of `if`: each of its branches takes all."""
    return all(_takes_all(part[key]) for key in ("then", "else") if key in part)


HARMLESS: Mapping[str, Callable[[Any, Schema], bool]] = {
    "propertyNames": lambda value, _: _takes_all_texts(value),
    "uniqueItems": lambda value, _: value is False,
    "unevaluatedProperties": lambda value, _: _takes_all(value),
    "unevaluatedItems": lambda value, _: _takes_all(value),
    "format": lambda value, _: isinstance(value, str) and value not in STANDARD_FORMATS,
    "not": lambda value, _: value is False,
    "dependentRequired": _adds_nothing,
    "dependentSchemas": _adds_nothing,
    "dependencies": _adds_nothing,
    # In this order: the others mean nothing once the first is gone.
    "contains": _takes_any_number_of_matches,
    "minContains": lambda _, part: "contains" not in part,
    "maxContains": lambda _, part: "contains" not in part,
    "if": _decides_nothing,
    "then": lambda _, part: "if" not in part,
    "else": lambda _, part: "if" not in part,
    # They name places for `$dynamicRef` and `$recursiveRef`, which are refused.
    "$dynamicAnchor": lambda value, _: isinstance(value, str),
    "$recursiveAnchor": lambda value, _: isinstance(value, bool),
}
"""Keyword to whether it limits nothing, from its value and the schema that it stands in."""
