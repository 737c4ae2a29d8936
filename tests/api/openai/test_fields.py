"""Every field of OpenAI's API is in the documentation, and is what the documentation says of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from docs.openai_fields import REQUESTS
from src.api.fields.shared import NoEffect, Refused
from src.main import create_app
from tests.api.openai.test_chat_and_completions import VALUES as USUAL
from tests.api.openai.test_errors import error_of
from tests.conftest import create_settings
from tests.support.wire import bodies, marked, with_a_stored_file

DOCUMENT = create_app(create_settings()).openapi()
SCHEMAS = DOCUMENT["components"]["schemas"]
BODIES = bodies(DOCUMENT, "OpenAI")
# What clients send in fields without effect.
VALUES = USUAL | {
    "background": False,
    "truncation": "auto",
    "max_tool_calls": 1,
    "context_management": [{"type": "compaction"}],
    "client_metadata": {"a": "b"},
    "prompt_cache_options": {"ttl": "30m"},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "stream_options": None,
}
DOCUMENTED: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in REQUESTS.values()}


def example(path: str) -> dict[str, Any]:
    """The document's own."""
    return SCHEMAS[BODIES[path]]["examples"][0]


def names_in(schema: object) -> Iterator[str]:
    """All schemas that this one refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].split("/")[-1]
        for inner in schema.values():
            yield from names_in(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from names_in(inner)


def test_every_object_that_can_be_sent_has_a_table():
    found, new = set(), set(BODIES.values())
    while new:
        found |= new
        new = {inner for name in new for inner in names_in(SCHEMAS[name])} - found
    assert found == DOCUMENTED.keys()


def test_every_schema_has_a_name_of_its_own():
    """Else the framework tells them apart by the modules that they are written in."""
    assert not [name for name in SCHEMAS if not name.isalnum()]


def test_every_field_is_in_its_table_with_what_it_is_for():
    for kind in DOCUMENTED.values():
        for name, field in kind.model_fields.items():
            marks = [one for one in field.metadata if isinstance(one, NoEffect | Refused)]
            why = marks[0].why if marks else field.description
            assert why, f"{kind.__name__}.{name}"


@pytest.mark.parametrize("path", BODIES)
def test_the_documents_example_is_answered(client: TestClient, path: str):
    assert client.post(path, json=with_a_stored_file(client, example(path))).status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_field_is_refused_by_name(client: TestClient, path: str):
    error = error_of(client.post(path, json=example(path) | {"surprise": 1}), 400)
    assert (error["param"], error["code"]) == ("surprise", "unknown_parameter")


@pytest.mark.parametrize(
    ("path", "field"),
    [(path, name) for path in BODIES for name in marked(DOCUMENTED[BODIES[path]], Refused)],
)
def test_a_refused_field_is_refused_by_name(client: TestClient, path: str, field: str):
    error = error_of(client.post(path, json=example(path) | {field: "x"}), 400)
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


@pytest.mark.parametrize("path", BODIES)
def test_fields_without_effect_are_accepted(client: TestClient, path: str):
    names = marked(DOCUMENTED[BODIES[path]], NoEffect)
    body = with_a_stored_file(client, example(path)) | {name: VALUES[name] for name in names}
    assert client.post(path, json=body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_an_unknown_field_of_a_message_is_refused_by_name(client: TestClient, path: str):
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "a", "surprise": 1}]
    body = {"model": "storyteller", "messages": messages}
    error = error_of(client.post(path, json=body), 400)
    assert (error["param"], error["code"]) == ("messages.[1].surprise", "unknown_parameter")
