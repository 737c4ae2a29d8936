"""Bounds of 64-bit and floating-point numbers are served, and answers are within them."""

import json

import pytest
from jsonschema import Draft202012Validator

from src.errors import InvalidSchemaError
from tests.engine.structured_output.test_matcher import compile_schema, write

FLOAT32, FLOAT64 = 3.4028234663852886e38, 1.7976931348623157e308


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "integer", "exclusiveMinimum": -(10**30), "exclusiveMaximum": 5},
        {"type": "number", "minimum": -FLOAT32, "maximum": FLOAT32},
        {"type": "number", "minimum": -FLOAT64, "maximum": FLOAT64},
        {"type": "number", "minimum": 0, "maximum": 1e20},
        {"minimum": -1e19, "maximum": 1e19},
    ],
    ids=str,
)
def test_wide_bounds_are_served(schema):
    texts = [write(compile_schema(schema), seed=seed) for seed in range(5)]
    assert any(text is not None for text in texts)
    for text in texts:
        if text is not None:
            Draft202012Validator(schema).validate(json.loads(text))


def test_a_bound_that_leaves_only_numbers_beyond_is_refused():
    with pytest.raises(InvalidSchemaError):
        compile_schema({"type": "number", "minimum": 1e20})
