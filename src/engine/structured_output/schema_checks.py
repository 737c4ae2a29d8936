"""Looks at JSON schemas before they are compiled: what could not be kept is refused with its place.

The compiler says what is wrong but not where, and it takes some schemas whose answers would never
end, or would not be valid.
"""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from src.engine.structured_output.reference_depth import MAX_REFERENCE_DEPTH, reference_depth
from src.engine.structured_output.regex_size import expanded_size
from src.engine.structured_output.schema_walk import Path, children, subschemas

MAX_DEPTH = 100
"""So deep a schema may be nested; the compiler's own limit is a little higher."""

MAX_EXPANDED_SIZE = 20_000
"""So many characters a pattern or a text may stand for: each token's cost grows with them."""

MAX_LOOKS = 100_000
"""So many parts are looked at to find out whether answers can end; each may be looked at often."""

MAX_SEARCH_SECONDS = 0.5
"""So long one looks for the place of a fault; then an outer part is named."""


class SchemaError(Exception):
    """What is wrong with a schema, and where in it.

    Args:
        message: what is wrong.
        path: from the schema's root.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def check_structure(schema: dict[str, Any]) -> None:
    """Refuses what the recursive compiler would overflow its stack on.

    Raises:
        SchemaError: it nests too deep, or its references do.
    """
    for path, _ in subschemas(schema):
        if len(path) > MAX_DEPTH:
            raise SchemaError(f"A schema may be nested {MAX_DEPTH} levels deep.", path[:10])
    root = _references_in(schema)
    references = {one: _references_in(_resolve(schema, one)) for one in root} | {"": root}
    if reference_depth(references, "") > MAX_REFERENCE_DEPTH:
        raise SchemaError(f"References may lead {MAX_REFERENCE_DEPTH} levels deep.", ())


def _references_in(part: object) -> list[str]:
    parts = subschemas(part) if isinstance(part, dict) else ()
    return [one["$ref"] for _, one in parts if isinstance(one.get("$ref"), str)]


def check_schema(schema: dict[str, Any]) -> None:
    """Refuses what the compiler would take but not keep.

    Raises:
        SchemaError: with the place.
    """
    references: dict[str, Path] = {}
    for path, part in subschemas(schema):
        _check_part(part, path)
        if isinstance(reference := part.get("$ref"), str):
            if reference != "#" and not reference.startswith("#/"):
                raise SchemaError(
                    "References lead to places in the schema itself, such as #/$defs/name.",
                    (*path, "$ref"),
                )
            references.setdefault(reference, path)
    _check_ends(schema, references)


def _check_part(part: dict[str, Any], path: Path) -> None:
    pattern = part.get("pattern")
    patterns = [pattern] if isinstance(pattern, str) else []
    if isinstance(keys := part.get("patternProperties"), dict):
        patterns += keys
    if any(expanded_size(one) > MAX_EXPANDED_SIZE for one in patterns):
        raise SchemaError(
            f"The pattern stands for more than {MAX_EXPANDED_SIZE} characters.",
            (*path, "pattern" if isinstance(pattern, str) else "patternProperties"),
        )
    for key in ("const", "enum"):
        values = _list(part, key) if key == "enum" else [part.get(key)]
        if any(len(json.dumps(value)) > MAX_EXPANDED_SIZE for value in values):
            raise SchemaError(
                f"A value may have at most {MAX_EXPANDED_SIZE} characters.", (*path, key)
            )
    least, required = part.get("minProperties"), part.get("required")
    known = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, known):
        raise SchemaError(
            "minProperties may not be more than the number of required properties: other keys could"
            " be told twice.",
            (*path, "minProperties"),
        )


def _check_ends(schema: dict[str, Any], references: dict[str, Path]) -> None:
    """Refuses a schema whose every answer would go on for ever, as it needs itself.

    What ends is the least fixpoint: at first nothing that is referred to does, then what needs no
    reference, then what needs those, and so on.
    """
    targets = {reference: _resolve(schema, reference) for reference in references}
    check = _EndCheck()
    while more := {one for one in targets.keys() - check.ending if check.can_end(targets[one])}:
        check.ending |= more
    if not check.can_end(schema):
        endless = next((path for one, path in references.items() if one not in check.ending), None)
        if endless is None:
            raise SchemaError("There is no value that this schema allows.", ())
        raise SchemaError("This refers back to itself with no way to end.", (*endless, "$ref"))


def _resolve(schema: dict[str, Any], reference: str) -> object:
    """What a reference leads to; True, a schema that takes all, where that is nothing."""
    found: Any = schema
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdigit():
            found = dict(enumerate(found)).get(int(name), True)
        else:
            found = found.get(name, True) if isinstance(found, dict) else True
    return found


class _EndCheck:
    """Finds out whether a schema has an answer of a finite length.

    Args:
        ending: references that are known to lead to one that has.
    """

    def __init__(self) -> None:
        self.ending: set[str] = set()
        self._num_looks = 0

    def can_end(self, schema: object) -> bool:
        self._num_looks += 1
        if self._num_looks > MAX_LOOKS:
            raise SchemaError("The schema refers to itself in too many ways.", ())
        if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
            return True
        if isinstance(reference := schema.get("$ref"), str) and reference not in self.ending:
            return False
        if not all(map(self.can_end, _list(schema, "allOf"))):
            return False
        for key in ("anyOf", "oneOf"):
            if (parts := _list(schema, key)) and not any(map(self.can_end, parts)):
                return False
        kinds = schema.get("type", "null")  # without a type it may be null
        return any(
            self._kind_can_end(kind, schema)
            for kind in (kinds if isinstance(kinds, list) else [kinds])
        )

    def _kind_can_end(self, kind: object, schema: dict[str, Any]) -> bool:
        if kind == "object" and isinstance(properties := schema.get("properties"), dict):
            required = [name for name in _list(schema, "required") if isinstance(name, str)]
            return all(self.can_end(properties.get(name)) for name in required)
        if kind == "array" and isinstance(least := schema.get("minItems"), int) and least > 0:
            first = _list(schema, "prefixItems")[:least]
            rest = [schema.get("items")] if len(first) < least else []
            return all(map(self.can_end, [*first, *rest]))
        return True


def _list(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def find_fault(schema: dict[str, Any], fails: Callable[[dict[str, Any]], bool]) -> Path:
    """Returns the path of the innermost part that fails by itself, if it is found soon enough.

    Args:
        schema: fails as a whole.
        fails: whether a schema does.
    """
    # Each part is tried as what a reference leads to, so that its own references find their goals.
    whole = _move_references(schema)
    until = time.monotonic() + MAX_SEARCH_SECONDS
    part: dict[str, Any] = schema
    path: Path = ()
    while True:
        for step, one in children(part):
            if time.monotonic() > until:
                return path
            if fails({"$ref": _pointer((*path, *step)), "whole": whole}):
                part, path = one, (*path, *step)
                break
        else:
            return path


def _move_references(value: Any) -> Any:
    if isinstance(value, list):
        return [_move_references(one) for one in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _move_references(one) for key, one in value.items()}
    if isinstance(reference := moved.get("$ref"), str):
        moved["$ref"] = "#/whole" + reference[1:]
    return moved


def _pointer(path: Path) -> str:
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in ("whole", *path)]
    return "#/" + "/".join(steps)
