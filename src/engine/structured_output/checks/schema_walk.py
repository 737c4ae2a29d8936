"""Traversal of JSON schemas, and a rewrite that closes objects.

A schema that lists an object's properties mostly means no others, but omits `additionalProperties`.
Models that may invent properties often do, until the answer is cut. So objects are closed unless
the schema says otherwise; answers satisfy the original schema as well.
"""

from collections.abc import Iterator
from typing import Any

from src.errors import FieldPath

Schema = dict[str, Any]

MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
SINGLES = ("items", "additionalProperties", "additionalItems", "not")

RESTRICTS_NAMES = frozenset(
    {
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "enum",
        "const",
    }
)
"""Keywords that already restrict the names or the number of an object's properties."""


def subschemas(schema: Schema) -> Iterator[tuple[FieldPath, Schema]]:
    """Yields the schema and all schemas in it with their paths, breadth first.

    Only objects; boolean schemas are left out.
    """
    queue: list[tuple[FieldPath, Schema]] = [((), schema)]
    for path, part in queue:  # grows during the iteration
        yield path, part
        queue += [((*path, *step), child) for step, child in children(part)]


def children(part: Schema) -> Iterator[tuple[FieldPath, Schema]]:
    """Yields the schemas directly in a schema with their relative paths."""
    steps: list[tuple[FieldPath, object]] = []
    for key in MAPS:
        if isinstance(value := part.get(key), dict):
            steps += [((key, name), child) for name, child in value.items()]
    for key in LISTS:
        if isinstance(value := part.get(key), list):
            steps += [((key, index), child) for index, child in enumerate(value)]
    steps += [((key,), part.get(key)) for key in SINGLES]
    for step, child in steps:
        if isinstance(child, dict):
            yield step, child


def close_objects(schema: Schema) -> None:
    """Adds `additionalProperties: false` to objects that list their properties, in place.

    Schemas that combine several schemas for one object do not change: each lists only some of the
    properties.
    """
    parts = [part for _, part in subschemas(schema)]
    if any(map(_combines, parts)):
        return
    for part in parts:
        if _lists_all_names(part):
            part["additionalProperties"] = False


def _combines(part: Schema) -> bool:
    """Returns True if several schemas apply to one object, or alternatives exclude each other."""
    if "oneOf" in part:
        return True
    parts = part.get("allOf", [])
    num_schemas = len(parts) if isinstance(parts, list) else 0
    num_schemas += sum(key in part for key in ("anyOf", "$ref"))
    num_schemas += "properties" in part or "required" in part
    return num_schemas > 1


def _lists_all_names(part: Schema) -> bool:
    properties, required = part.get("properties"), part.get("required", [])
    return (
        isinstance(properties, dict)
        and isinstance(required, list)
        and RESTRICTS_NAMES.isdisjoint(part)
        and all(isinstance(name, str) and name in properties for name in required)
    )
