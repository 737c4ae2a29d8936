"""Removal of JSON Schema keywords that restrict nothing, and of no others."""

import copy
import json
import random

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from src.engine.structured_output.checks.harmless_keywords import (
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
RESTRICTING = [
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
# Schemas with a subschema in each kind of place.
PLACES = [
    lambda inner: {"properties": {"uniqueItems": inner}},
    lambda inner: {"anyOf": [{"type": "null"}, inner]},
    lambda inner: {"items": inner},
    lambda inner: {"prefixItems": [inner]},
    lambda inner: {"$defs": {"a": {"additionalProperties": inner}}},
]


def compiles(schema: dict) -> bool:
    return not LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))


@pytest.mark.parametrize(("schema", "expected"), HARMLESS, ids=str)
def test_harmless_keywords_are_removed_at_any_depth(schema, expected):
    original = copy.deepcopy(schema)
    assert without_harmless_keywords(schema) == expected
    assert schema == original
    for place in PLACES:
        assert without_harmless_keywords(place(schema)) == place(expected)
    assert not compiles(schema)
    assert compiles(expected)


@pytest.mark.parametrize("schema", RESTRICTING, ids=str)
def test_restricting_keywords_stay(schema):
    for whole in (schema, *(place(schema) for place in PLACES)):
        assert without_harmless_keywords(whole) == whole


@pytest.mark.parametrize("key", ["const", "default", "examples", "enum", "x-more"])
def test_values_are_not_changed(key):
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
def test_the_rewritten_schema_allows_the_same_values(schema, expected):
    before, after = Draft202012Validator(schema), Draft202012Validator(expected)
    for value in VALUES:
        if "additionalProperties" in expected and isinstance(value, dict):
            continue  # here jsonschema differs: it evaluates `unevaluatedProperties` last
        assert before.is_valid(value) == after.is_valid(value), value


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize(
    "limit",
    [2**63, 2**63 - 1, 3.4028234663852886e38, 1e20, 10**25, FLOAT64_MAX, int(FLOAT64_MAX)],
    ids=lambda limit: f"{float(limit):g}",
)
def test_bounds_beyond_int64_are_narrowed(kind, limit):
    for low, high in (("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")):
        schema = {"type": kind, low: -limit, high: limit}
        narrowed = without_harmless_keywords(schema)
        assert narrowed == {"type": kind, low: -MAX_BOUND, high: MAX_BOUND}
        assert compiles(narrowed)


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_other_bounds_do_not_change(kind):
    chooser = random.Random(0)
    for _ in range(20):
        low, high = sorted(chooser.randint(-MAX_BOUND, MAX_BOUND) for _ in range(2))
        schema = {"type": kind, "minimum": low, "maximum": high}
        assert without_harmless_keywords(schema) == schema
    for beyond in ({"minimum": 1e20}, {"maximum": -(10**25)}, {"maximum": True}):
        assert without_harmless_keywords(beyond) == beyond
