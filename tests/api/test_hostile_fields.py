"""Each field of each request model is refused in a few words, whatever stands in it.

All models are walked over, so that a field which is added later is tried too. The values are as
large as MAX_BODY_BYTES lets through.
"""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from src.main import create_app
from tests.conftest import create_settings
from tests.support.request_models import all_models, request_models
from tests.support.wire import bodies

SIZE = 1_900_000
MAX_ERRORS = 100
"""A model has at most 64 fields that are unknown, and less than 64 others."""

APP = create_app(create_settings())
MODELS = sorted(all_models(APP), key=lambda model: model.__name__)


def many(item: object) -> list[object]:
    return [item] * (SIZE // (len(json.dumps(item)) + 2))


def keys(value: object) -> dict[str, object]:
    return {str(number): value for number in range(SIZE // (len(json.dumps(value)) + 11))}


def deep() -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(490):
        value = {"a": value, "b": [value]}
    return value


# Equal values are the same object: what a validator does with each is what counts.
VALUES: dict[str, Any] = {
    "nulls": many(None),
    "integers": many(0),
    "negative integers": many(-1),
    "floats": many(0.5),
    "texts": many("ab"),
    "empty texts": many(""),
    "lists": many([])[: SIZE // 16],
    "objects": many({})[: SIZE // 16],
    "objects with a type": many({"type": "text"}),
    "messages": many({"role": "user", "content": 0}),
    "null keys": keys(None),
    "text keys": keys("a"),
    "object keys": keys({}),
    "a text": "a" * SIZE,
    "an odd text": "\u2028" * (SIZE // 3),
    "levels": deep(),
}


def num_errors(model: type[BaseModel], body: Any) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


def names_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def test_all_routes_that_read_a_body_are_walked_over():
    assert request_models(APP).keys() == bodies(APP.openapi()).keys()
    assert set(request_models(APP).values()) < set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_large_value_in_any_field_gets_few_errors(model):
    for name in [*names_of(model), "unknown"]:
        for kind, value in VALUES.items():
            assert num_errors(model, {name: value}) <= MAX_ERRORS, f"{name}: {kind}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_large_value_in_the_place_of_an_object_gets_few_errors(model):
    for kind, value in VALUES.items():
        assert num_errors(model, value) <= MAX_ERRORS, kind
        assert num_errors(model, dict.fromkeys(names_of(model), value)) <= MAX_ERRORS, kind
