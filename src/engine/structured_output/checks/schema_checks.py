"""Checks JSON schemas and finds the places of faults in them.

llguidance accepts some schemas that it cannot enforce, or that allow no finite answer. And its
errors do not name the place of a fault.
"""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from src.engine.structured_output.checks.reference_depth import MAX_REFERENCE_DEPTH, reference_depth
from src.engine.structured_output.checks.regex_size import expanded_size
from src.engine.structured_output.checks.schema_walk import Schema, children, subschemas
from src.errors import FieldPath

MAX_DEPTH = 100
"""Limit on the nesting of a schema; the compiler's own limit is a little higher."""

MAX_EXPANDED_SIZE = 20_000
"""Limit on the expanded size of a pattern or value: the cost of each token grows with it."""

MAX_VISITS = 100_000
"""Limit on visits of subschemas in the search for finite answers; each may be visited often."""

MAX_SEARCH_SECONDS = 0.5
"""Limit on the search for the place of a fault; then an outer place is named."""


class SchemaError(Exception):
    """A fault in a schema.

    Args:
        message: the fault, in a sentence.
        path: its place, from the schema's root.
    """

    def __init__(self, message: str, path: FieldPath) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def check_structure(schema: Schema) -> None:
    """Refuses schemas that would overflow the stack of the recursive compiler.

    Raises:
        SchemaError: the schema or its references are nested too deeply.
    """
    for path, _ in subschemas(schema):
        if len(path) > MAX_DEPTH:
            raise SchemaError(f"It is nested more than {MAX_DEPTH} levels deep.", path[:10])
    root = _references_in(schema)
    references = {name: _references_in(_resolve(schema, name)) for name in root} | {"": root}
    if reference_depth(references, "") > MAX_REFERENCE_DEPTH:
        raise SchemaError(
            f"Its references are nested more than {MAX_REFERENCE_DEPTH} levels deep.", ()
        )


def _references_in(part: object) -> list[str]:
    parts = subschemas(part) if isinstance(part, dict) else ()
    return [inner["$ref"] for _, inner in parts if isinstance(inner.get("$ref"), str)]


def check_schema(schema: Schema) -> None:
    """Refuses schemas that the compiler would accept but not enforce.

    Raises:
        SchemaError: the first fault.
    """
    references: dict[str, FieldPath] = {}
    for path, part in subschemas(schema):
        _check_part(part, path)
        if isinstance(reference := part.get("$ref"), str):
            if reference != "#" and not reference.startswith("#/"):
                raise SchemaError(
                    "$ref must point into the schema itself, such as #/$defs/name.",
                    (*path, "$ref"),
                )
            references.setdefault(reference, path)
    _check_ends(schema, references)


def _check_part(part: Schema, path: FieldPath) -> None:
    _check_patterns(part, path)
    _check_values(part, path)
    _check_min_properties(part, path)


def _check_patterns(part: Schema, path: FieldPath) -> None:
    pattern = part.get("pattern")
    patterns = [pattern] if isinstance(pattern, str) else []
    if isinstance(keys := part.get("patternProperties"), dict):
        patterns += keys
    if any(expanded_size(text) > MAX_EXPANDED_SIZE for text in patterns):
        raise SchemaError(
            f"The pattern expands to more than {MAX_EXPANDED_SIZE} characters.",
            (*path, "pattern" if isinstance(pattern, str) else "patternProperties"),
        )


def _check_values(part: Schema, path: FieldPath) -> None:
    for key in ("const", "enum"):
        values = _list(part, key) if key == "enum" else [part.get(key)]
        if any(len(json.dumps(value)) > MAX_EXPANDED_SIZE for value in values):
            raise SchemaError(
                f"A value may have at most {MAX_EXPANDED_SIZE} characters.", (*path, key)
            )


def _check_min_properties(part: Schema, path: FieldPath) -> None:
    minimum, required = part.get("minProperties"), part.get("required")
    num_required = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(minimum, int) and minimum > max(1, num_required):
        raise SchemaError(
            "minProperties must not exceed the number of required properties, as other keys could"
            " be repeated.",
            (*path, "minProperties"),
        )


def _check_ends(schema: Schema, references: dict[str, FieldPath]) -> None:
    """Refuses a schema without a finite answer, as it requires itself.

    Least-fixpoint iteration: each round adds the references with a finite answer from those of the
    rounds before.
    """
    targets = {reference: _resolve(schema, reference) for reference in references}
    search = _FiniteAnswerSearch()
    while more := {
        reference
        for reference in targets.keys() - search.finite
        if search.is_finite(targets[reference])
    }:
        search.finite |= more
    if search.is_finite(schema):
        return
    for reference, path in references.items():
        if reference not in search.finite:
            raise SchemaError("The reference is recursive with no way to end.", (*path, "$ref"))
    raise SchemaError("No value satisfies this schema.", ())


def _resolve(schema: Schema, reference: str) -> object:
    """Returns the target of a JSON pointer (RFC 6901); True, which allows all, if there is none."""
    target: Any = schema
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isascii() and name.isdigit():
            target = dict(enumerate(target)).get(int(name), True)
        else:
            target = target.get(name, True) if isinstance(target, dict) else True
    return target


class _FiniteAnswerSearch:
    """Searches schemas for an answer of finite length.

    Attributes:
        finite: references that are known to have a finite answer.
    """

    def __init__(self) -> None:
        self.finite: set[str] = set()
        self._num_visits = 0

    def is_finite(self, schema: object) -> bool:
        """Returns True if the schema has a finite answer with only the references in `finite`.

        Raises:
            SchemaError: the search takes more than `MAX_VISITS` visits.
        """
        self._num_visits += 1
        if self._num_visits > MAX_VISITS:
            raise SchemaError("It has too many recursive references.", ())
        if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
            return True
        if isinstance(reference := schema.get("$ref"), str) and reference not in self.finite:
            return False
        if not all(map(self.is_finite, _list(schema, "allOf"))):
            return False
        for key in ("anyOf", "oneOf"):
            if (parts := _list(schema, key)) and not any(map(self.is_finite, parts)):
                return False
        types = schema.get("type", "null")  # without a type it may be null
        return any(
            self._is_finite_as(kind, schema)
            for kind in (types if isinstance(types, list) else [types])
        )

    def _is_finite_as(self, kind: object, schema: Schema) -> bool:
        if kind == "object" and isinstance(properties := schema.get("properties"), dict):
            required = [name for name in _list(schema, "required") if isinstance(name, str)]
            return all(self.is_finite(properties.get(name)) for name in required)
        if kind == "array" and isinstance(minimum := schema.get("minItems"), int) and minimum > 0:
            first = _list(schema, "prefixItems")[:minimum]
            rest = [schema.get("items")] if len(first) < minimum else []
            return all(map(self.is_finite, [*first, *rest]))
        return True


def _list(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def find_fault(schema: Schema, fails: Callable[[Schema], bool]) -> FieldPath:
    """Returns the path of the innermost subschema that fails by itself.

    After `MAX_SEARCH_SECONDS` it returns the innermost one until then.

    Args:
        schema: a schema that fails as a whole.
        fails: returns True if a schema fails.
    """
    # Each subschema is tried as the target of a reference, so that its own references resolve.
    whole = _move_references(schema)
    deadline = time.monotonic() + MAX_SEARCH_SECONDS
    part: Schema = schema
    path: FieldPath = ()
    while True:
        for step, child in children(part):
            if time.monotonic() > deadline:
                return path
            if fails({"$ref": _pointer((*path, *step)), "whole": whole}):
                part, path = child, (*path, *step)
                break
        else:
            return path


def _move_references(value: Any) -> Any:
    """Returns a schema with references for its place under the key `whole`."""
    if isinstance(value, list):
        return [_move_references(item) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _move_references(item) for key, item in value.items()}
    if isinstance(reference := moved.get("$ref"), str):
        moved["$ref"] = "#/whole" + reference[1:]
    return moved


def _pointer(path: FieldPath) -> str:
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in ("whole", *path)]
    return "#/" + "/".join(steps)
