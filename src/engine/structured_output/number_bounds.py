"""Bounds of numbers that the compiler cannot express, moved to ones that it can."""

from typing import Any

from src.engine.structured_output.schema_walk import subschemas

LARGEST = 9 * 10**18
"""The compiler writes bounds as regular expressions over 64-bit integers; this fits them."""


def narrow_bounds(schema: dict[str, Any]) -> None:
    """Moves bounds that are farther from zero than `LARGEST` there, in place.

    A schema that names the range of int64 or of a float means "any such number". The narrower range
    allows no value that the schema does not. A bound that excludes all smaller numbers stays, and
    is refused.
    """
    for _, part in subschemas(schema):
        for key in ("maximum", "exclusiveMaximum"):
            if _is_number(part.get(key)):
                part[key] = min(part[key], LARGEST)
        for key in ("minimum", "exclusiveMinimum"):
            if _is_number(part.get(key)):
                part[key] = max(part[key], -LARGEST)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
