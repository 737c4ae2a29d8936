"""Objects that are closed although their schemas do not say so."""

import copy
import json

import pytest

from src.engine.structured_output.checks.schema_walk import close_objects

CLOSED = {"additionalProperties": False}
TEXT = {"type": "string"}
NAMED = {"type": "object", "properties": {"name": TEXT}, "required": ["name"]}


def closed(schema: dict) -> dict:
    schema = copy.deepcopy(schema)
    close_objects(schema)
    return schema


def test_objects_that_list_their_properties_are_closed_at_any_depth():
    assert closed(NAMED) == NAMED | CLOSED
    assert closed({"properties": {}}) == {"properties": {}} | CLOSED
    assert closed({"items": {"anyOf": [NAMED, TEXT]}}) == {
        "items": {"anyOf": [NAMED | CLOSED, TEXT]}
    }
    assert closed({"$ref": "#/$defs/a", "title": "A", "$defs": {"a": NAMED}}) == {
        "$ref": "#/$defs/a",
        "title": "A",
        "$defs": {"a": NAMED | CLOSED},
    }
    alone = {"properties": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}}, "$defs": {"b": NAMED}}
    assert closed(alone)["$defs"]["b"] == NAMED | CLOSED


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        NAMED | {"additionalProperties": True},
        NAMED | {"additionalProperties": TEXT},
        NAMED | {"patternProperties": {"^x": TEXT}},
        NAMED | {"minProperties": 2},
        NAMED | {"required": ["name", "other"]},
        NAMED | {"enum": [{"name": "a", "other": 1}]},
        {"allOf": [NAMED, {"properties": {"other": TEXT}}]},
        {"oneOf": [NAMED, {"properties": {"other": TEXT}}]},
        NAMED | {"anyOf": [{"required": ["other"]}, {"required": ["name"]}]},
        {"$ref": "#/$defs/a", "properties": {"b": TEXT}, "$defs": {"a": NAMED}},
        {"properties": 5, "required": 5, "allOf": 5, "anyOf": 5},
        {"const": {"properties": {}}, "default": NAMED, "examples": [NAMED]},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)
def test_schemas_that_restrict_or_combine_properties_do_not_change(schema):
    assert closed(schema) == schema
