"""JSON schemas that are refused before compilation, and the places that errors name."""

from contextlib import nullcontext
from itertools import pairwise

import pytest

from src.engine.structured_output.checks.schema_checks import (
    SchemaError,
    check_schema,
    check_structure,
    find_fault,
)

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
REQUIRED = NODE | {"required": ["next"]}
OR_NULL = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
CYCLE = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}},
}


def with_node(node: dict) -> dict:
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (with_node(REQUIRED), ("$ref",)),
        ({"$ref": "#"}, ("$ref",)),
        (CYCLE, ("$ref",)),
        (
            with_node({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/node"}}),
            ("$ref",),
        ),
        (
            {"type": "array", "minItems": 2, "prefixItems": [{"type": "null"}, {"$ref": "#"}]},
            ("prefixItems", 1, "$ref"),
        ),
        (
            {"properties": {"a": {"$ref": "other.json#/a"}}},
            ("properties", "a", "$ref"),
        ),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}, ("$ref",)),
        ({"items": {"pattern": "a{100000}"}}, ("items", "pattern")),
        ({"patternProperties": {"(a{999}){999}": {}}}, ("patternProperties",)),
        ({"items": {"const": ["a" * 20_000]}}, ("items", "const")),
        ({"enum": [1, "a" * 20_000]}, ("enum",)),
        ({"minProperties": 2}, ("minProperties",)),
        ({"minProperties": 3, "required": ["a", "b"]}, ("minProperties",)),
    ],
)
def test_schemas_that_cannot_be_enforced_are_refused_with_the_place(schema, path):
    with pytest.raises(SchemaError) as caught:
        check_schema(schema)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "schema",
    [
        {},
        with_node(NODE),
        with_node(REQUIRED | {"properties": {"next": OR_NULL}}),
        with_node(REQUIRED | {"type": ["object", "null"]}),
        with_node({"type": "array", "items": {"$ref": "#/$defs/node"}}),
        with_node({"enum": [1]}),
        {"properties": {"a/b": {"type": "null"}, "c": {"$ref": "#/properties/a~1b"}}},
        {"prefixItems": [{"type": "null"}, {"$ref": "#/prefixItems/0"}], "minItems": 2},
        {"$ref": "#/nowhere"},
        {"minProperties": 1},
        {"minProperties": 2, "required": ["a", "b"]},
        {"pattern": "a{1000}"},
        {"required": 5, "properties": 5, "items": 5, "anyOf": 5, "minItems": "x", "type": 5},
    ],
)
def test_schemas_with_a_finite_answer_and_faults_of_other_checks_pass(schema):
    check_schema(schema)


def test_a_deeply_nested_schema_is_refused():
    schema: dict = {}
    for _ in range(60):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaError, match="levels deep"):
        check_structure(schema)


@pytest.mark.parametrize(("length", "is_refused"), [(400, False), (600, True)])
def test_deeply_nested_references_are_refused(length, is_refused):
    names = {f"a{index}": {"items": {"$ref": f"#/$defs/a{index + 1}"}} for index in range(length)}
    schema = {"$defs": names, "$ref": "#/$defs/a0"}
    with pytest.raises(SchemaError, match="levels deep") if is_refused else nullcontext():
        check_structure(schema)


def test_the_search_for_finite_answers_is_bounded():
    names = [f"n{index}" for index in range(2000)]
    parts = {name: {"$ref": f"#/$defs/{other}"} for name, other in pairwise(names)}
    schema = {"$ref": "#/$defs/n0", "$defs": parts | {names[-1]: {"type": "null"}}}
    with pytest.raises(SchemaError, match="too many recursive references"):
        check_schema(schema)


def test_the_innermost_failing_subschema_is_found():
    schema = {
        "properties": {"a": {"type": "null"}, "b": {"items": {"anyOf": [{}, {"bad": 1}]}}},
    }

    def fails(part: dict) -> bool:
        def has_bad(value: object) -> bool:
            if isinstance(value, dict):
                return "bad" in value or any(map(has_bad, value.values()))
            return isinstance(value, list) and any(map(has_bad, value))

        target = part["whole"]
        for step in part["$ref"].split("/")[2:]:
            target = target[int(step)] if isinstance(target, list) else target[step]
        return has_bad(target)

    assert find_fault(schema, fails) == ("properties", "b", "items", "anyOf", 1)
