"""Keywords of JSON schemas that limit nothing are left out, and no others."""

import copy
import json
import random

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from src.engine.structured_output.harmless_keywords import (
    MAX_BOUND,
    without_harmless_keywords,
)

FLOAT64_MAX = 1.7976931348623157e308
HARMLESS = [
    ({"type": "object", "propertyNames": {"type": "string"}}, {"type": "object"}),
    ({"propertyNames": {"type": ["string", "null"], "title": "Name"}}, {}),
    ({"propertyNames": True}, {}),
    ({"propertyNames": {"uniqueItems": False}}, {}),
    ({"type": "array", "uniqueItems": False}, {"type": "array"}),
    ({"unevaluatedItems": True}, {}),
    ({"unevaluatedProperties": {}}, {"additionalProperties": True}),
    (
        {"unevaluatedProperties": True, "additionalProperties": False},
        {"additionalProperties": False},
    ),
    ({"type": "string", "format": "password"}, {"type": "string"}),
    ({"type": "string", "format": "binary"}, {"type": "string"}),
    ({"type": "string", "format": "path"}, {"type": "string"}),
    ({"not": False}, {}),
    ({"dependentRequired": {"a": []}, "dependentSchemas": {"a": True}, "dependencies": {}}, {}),
    ({"contains": {"type": "null"}, "minContains": 0}, {}),
    ({"minContains": 2, "maxContains": 3}, {}),
    ({"then": {"type": "string"}, "else": False}, {}),
    ({"if": {"type": "string"}, "then": {}, "else": True}, {}),
    ({"if": {"type": "string"}}, {}),
    ({"$dynamicAnchor": "a", "$recursiveAnchor": True}, {}),
]
LIMITING = [
    {"propertyNames": {"pattern": "^a"}},
    {"propertyNames": {"type": "string", "maxLength": 3}},
    {"propertyNames": False},
    {"uniqueItems": True},
    {"unevaluatedProperties": False},
    {"unevaluatedItems": {"type": "string"}},
    {"format": "iri"},
    {"format": "email"},
    {"not": {"type": "string"}},
    {"not": True},
    {"dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"a": {"required": ["b"]}}},
    {"contains": True},
    {"contains": True, "minContains": 0, "maxContains": 2},
    {"if": {"type": "string"}, "then": {"maxLength": 3}},
    {"if": {"type": "string"}, "else": False},
]
# Where a schema may stand in another one.
PLACES = [
    lambda one: {"properties": {"uniqueItems": one}},
    lambda one: {"anyOf": [{"type": "null"}, one]},
    lambda one: {"items": one},
    lambda one: {"prefixItems": [one]},
    lambda one: {"$defs": {"a": {"additionalProperties": one}}},
]


def compiles(schema: dict) -> bool:
    return not LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))


@pytest.mark.parametrize(("schema", "expected"), HARMLESS, ids=str)
def test_what_limits_nothing_is_left_out_wherever_it_stands(schema, expected):
    given = copy.deepcopy(schema)
    assert without_harmless_keywords(schema) == expected
    assert schema == given
    for place in PLACES:
        assert without_harmless_keywords(place(schema)) == place(expected)
    assert not compiles(schema)
    assert compiles(expected)


@pytest.mark.parametrize("schema", LIMITING, ids=str)
def test_what_limits_stays(schema):
    for one in (schema, *(place(schema) for place in PLACES)):
        assert without_harmless_keywords(one) == one


@pytest.mark.parametrize("key", ["const", "default", "examples", "enum", "x-more"])
def test_values_are_no_schemas(key):
    value = [{"uniqueItems": False, "format": "password"}]
    schema = {key: value if key in ("enum", "examples") else value[0]}
    assert without_harmless_keywords(schema) == schema


VALUES = [
    None,
    True,
    0,
    -5,
    1e30,
    "",
    "ab",
    [],
    [1, 1],
    ["a", None],
    {},
    {"a": 1},
    {"a": [], "b": {}},
]


@pytest.mark.parametrize(("schema", "expected"), HARMLESS, ids=str)
def test_a_schema_takes_the_same_values_without_them(schema, expected):
    before, after = Draft202012Validator(schema), Draft202012Validator(expected)
    for value in VALUES:
        if "additionalProperties" in expected and isinstance(value, dict):
            continue  # a validator asks `unevaluatedProperties` after it, and it is closed
        assert before.is_valid(value) == after.is_valid(value), value


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize(
    "limit",
    [2**63, 2**63 - 1, 3.4028234663852886e38, 1e20, 10**25, FLOAT64_MAX, int(FLOAT64_MAX)],
    ids=lambda limit: f"{float(limit):g}",
)
def test_bounds_that_the_compiler_cannot_write_become_narrower(kind, limit):
    for low, high in (("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")):
        schema = {"type": kind, low: -limit, high: limit}
        narrowed = without_harmless_keywords(schema)
        assert narrowed == {"type": kind, low: -MAX_BOUND, high: MAX_BOUND}
        assert compiles(narrowed)


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_other_bounds_stay(kind):
    chooser = random.Random(0)
    for _ in range(20):
        low, high = sorted(chooser.randint(-MAX_BOUND, MAX_BOUND) for _ in range(2))
        schema = {"type": kind, "minimum": low, "maximum": high}
        assert without_harmless_keywords(schema) == schema
    for beyond in ({"minimum": 1e20}, {"maximum": -(10**25)}, {"maximum": True}):
        assert without_harmless_keywords(beyond) == beyond
