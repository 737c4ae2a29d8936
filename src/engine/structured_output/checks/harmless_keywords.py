"""Removes JSON Schema keywords that llguidance refuses although they restrict nothing.

llguidance 1.x refuses every keyword that it does not implement. Some uses of such a keyword allow
every value (`uniqueItems: false`, `propertyNames: {"type": "string"}`). Without it the schema means
the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

from src.engine.structured_output.checks import schema_walk
from src.engine.structured_output.checks.schema_walk import Schema

MAPS = (*schema_walk.MAPS, "dependentSchemas")
LISTS = schema_walk.LISTS
SINGLES = (
    *schema_walk.SINGLES,
    "propertyNames",
    "contains",
    "if",
    "then",
    "else",
    "unevaluatedProperties",
    "unevaluatedItems",
)
"""Keywords with subschemas: a map, a list, or a single one. Values of other keywords are data."""

ANNOTATIONS = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$schema",
        "$id",
    ]
)

STANDARD_FORMATS = frozenset(
    [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uuid",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ]
)
"""Formats of JSON Schema 2020-12 (Validation, section 7.3). Any other is an annotation."""

MAX_BOUND = 2**63 - 1024
"""The largest float64 below 2^63. llguidance computes with bounds in int64, and negates them."""


def without_harmless_keywords(schema: Schema) -> Schema:
    """Returns a copy of a schema without keywords that restrict nothing.

    Bounds of numbers beyond ±MAX_BOUND become ±MAX_BOUND, which llguidance supports. That only
    narrows the schema, so an answer still satisfies the original one.

    Raises:
        RecursionError: the schema is nested too deep.
    """
    part = {key: _inner(key, value) for key, value in schema.items()}
    for key, is_harmless in HARMLESS.items():
        if key in part and is_harmless(part[key], part):
            del part[key]
            if key == "unevaluatedProperties":  # it allowed other properties
                part.setdefault("additionalProperties", True)
    return part | _narrowed_bounds(part)


def _inner(key: str, value: Any) -> Any:
    """Returns the value of a keyword with its subschemas cleaned."""
    if key in MAPS and isinstance(value, dict):
        return {name: _cleaned(schema) for name, schema in value.items()}
    if key in LISTS and isinstance(value, list):
        return [_cleaned(schema) for schema in value]
    return _cleaned(value) if key in SINGLES else value


def _cleaned(value: Any) -> Any:
    return without_harmless_keywords(value) if isinstance(value, dict) else value


def _narrowed_bounds(part: Schema) -> Schema:
    highs = dict.fromkeys(("maximum", "exclusiveMaximum"), MAX_BOUND)
    lows = dict.fromkeys(("minimum", "exclusiveMinimum"), -MAX_BOUND)
    return {key: bound for key, bound in (highs | lows).items() if _is_beyond(part.get(key), bound)}


def _is_beyond(value: Any, bound: int) -> bool:
    """Returns True for a number farther from 0 than the bound, on the same side."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value > bound if bound > 0 else value < bound


def _allows_all(value: Any) -> bool:
    """Returns True for a schema that allows every value."""
    return value is True or (isinstance(value, dict) and value.keys() <= ANNOTATIONS)


def _allows_all_strings(value: Any) -> bool:
    """Returns True for a schema that allows every string."""
    if not isinstance(value, dict):
        return value is True
    kinds = value.get("type", "string")
    return value.keys() - {"type"} <= ANNOTATIONS and (
        kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    )


def _allows_any_number_of_matches(_: Any, part: Schema) -> bool:
    """Tests `contains`: any number of matches is allowed, also none."""
    return part.get("minContains") == 0 and "maxContains" not in part


def _requires_nothing(value: Any, _: Schema) -> bool:
    """Tests `dependent*`: no name is required, and each schema allows every value."""
    return isinstance(value, dict) and all(
        required == [] or _allows_all(required) for required in value.values()
    )


def _has_no_branch(_: Any, part: Schema) -> bool:
    """Tests `if`: both branches allow every value."""
    return all(_allows_all(part[key]) for key in ("then", "else") if key in part)


HARMLESS: Mapping[str, Callable[[Any, Schema], bool]] = {
    "propertyNames": lambda value, _: _allows_all_strings(value),
    "uniqueItems": lambda value, _: value is False,
    "unevaluatedProperties": lambda value, _: _allows_all(value),
    "unevaluatedItems": lambda value, _: _allows_all(value),
    "format": lambda value, _: isinstance(value, str) and value not in STANDARD_FORMATS,
    "not": lambda value, _: value is False,
    "dependentRequired": _requires_nothing,
    "dependentSchemas": _requires_nothing,
    "dependencies": _requires_nothing,
    # Order matters: the other two have no effect without the first.
    "contains": _allows_any_number_of_matches,
    "minContains": lambda _, part: "contains" not in part,
    "maxContains": lambda _, part: "contains" not in part,
    "if": _has_no_branch,
    "then": lambda _, part: "if" not in part,
    "else": lambda _, part: "if" not in part,
    # Targets of `$dynamicRef` and `$recursiveRef`, which are refused.
    "$dynamicAnchor": lambda value, _: isinstance(value, str),
    "$recursiveAnchor": lambda value, _: isinstance(value, bool),
}
"""Tests of keywords: arguments are the value and the schema around it; True removes the keyword."""
