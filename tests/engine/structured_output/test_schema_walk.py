"""Which objects are closed though their schemas do not say so."""

import copy
import json

import pytest

from src.engine.structured_output.schema_walk import close_objects

CLOSED = {"additionalProperties": False}
TEXT = {"type": "string"}
NAMED = {"type": "object", "properties": {"name": TEXT}, "required": ["name"]}


def closed(schema: dict) -> dict:
    schema = copy.deepcopy(schema)
    close_objects(schema)
    return schema


def test_an_object_has_the_properties_that_are_listed_wherever_it_stands():
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
def test_what_says_or_leaves_open_what_else_there_may_be_stays_as_it_is(schema):
    assert closed(schema) == schema
