"""The parts of JSON schemas, and which objects are closed though their schemas do not say so.

A schema that lists an object's properties mostly means these and no others, and leaves
`additionalProperties` out. A model that is free to go on with names of its own often does, and is
cut; so it may not, unless it is told that it may. What it then writes is valid all the same.
"""

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]
Schema = dict[str, Any]

MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
SINGLES = ("items", "additionalProperties", "additionalItems", "not")

# What says itself which names an object may have, or how many.
TELLS_NAMES = frozenset(
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


def subschemas(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """All schemas that are objects in this one, itself first, outer ones before inner ones."""
    found: list[tuple[Path, Schema]] = [((), schema)]
    for path, part in found:  # it grows while it is read
        yield path, part
        found += [((*path, *step), one) for step, one in children(part)]


def children(part: Schema) -> Iterator[tuple[Path, Schema]]:
    """The schemas right inside of one, with the way to each."""
    steps: list[tuple[Path, object]] = []
    for key in MAPS:
        if isinstance(value := part.get(key), dict):
            steps += [((key, name), one) for name, one in value.items()]
    for key in LISTS:
        if isinstance(value := part.get(key), list):
            steps += [((key, index), one) for index, one in enumerate(value)]
    steps += [((key,), part.get(key)) for key in SINGLES]
    for step, one in steps:
        if isinstance(one, dict):
            yield step, one


def close_objects(schema: Schema) -> None:
    """Writes `additionalProperties: false` where properties are listed and nothing else is said.

    A schema that puts an object together from several is left as it is: each of them lists but a
    part of the names.
    """
    parts = [part for _, part in subschemas(schema)]
    if any(map(_combines, parts)):
        return
    for part in parts:
        if _lists_all_names(part):
            part["additionalProperties"] = False


def _combines(part: Schema) -> bool:
    """Whether one object has to be allowed by several schemas, or by one of them and no other."""
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
        and TELLS_NAMES.isdisjoint(part)
        and all(isinstance(name, str) and name in properties for name in required)
    )
