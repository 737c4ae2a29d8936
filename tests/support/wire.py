"""Requests over HTTP as tests send them, and checks of answers against the clients' own types."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
from fastapi.testclient import TestClient
from pydantic import BaseModel

from tests.support.servers import LocalServer, Server

PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}"
KEY = "any key"
"""Clients insist on a key; servers with AUTH=none ignore it."""


def post(server: Server | LocalServer, path: str, **body: object) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=60)


def openai_client(server: Server | LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def anthropic_client(server: Server | LocalServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0)


def bodies(document: Mapping[str, Any], tag: str | None = None) -> dict[str, str]:
    """Returns the schema's name for each path of an OpenAPI document that takes a JSON body."""
    return {
        path: content["application/json"]["schema"]["$ref"].split("/")[-1]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "application/json" in (content := operation.get("requestBody", {}).get("content", {}))
        and tag in (None, *operation["tags"])
    }


def with_a_stored_file(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    """Returns a documented body; a file that it names is uploaded."""
    if "input_file_id" not in body:
        return body
    form = {"purpose": "batch"}
    uploaded = client.post("/v1/files", data=form, files={"file": ("in.jsonl", b"{}")})
    return body | {"input_file_id": uploaded.json()["id"]}


def assert_shape(kind: type[BaseModel], data: object) -> None:
    """Asserts that the client's type accepts the data unchanged and knows all of its fields."""
    assert_no_extras(kind.model_validate(data, strict=True))


def assert_no_extras(value: object) -> None:
    """Asserts that no model inside of the value has fields that its type does not know."""
    if isinstance(value, BaseModel):
        assert not value.model_extra, value
        for name in type(value).model_fields:
            assert_no_extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            assert_no_extras(item)


def marked(kind: type[BaseModel], mark: type) -> list[str]:
    """Returns the names of a model's fields that carry a mark such as `NoEffect`."""
    return [
        name
        for name, field in kind.model_fields.items()
        if any(isinstance(item, mark) for item in field.metadata)
    ]


def fail_after(server: LocalServer, num_steps: int) -> None:
    """Makes the model raise in each step after so many steps."""
    steps = iter(range(num_steps))

    def forward(real: Callable[..., object], *args: object, **kwargs: object) -> object:
        if next(steps, None) is None:
            raise RuntimeError("made to fail")
        return real(*args, **kwargs)

    server.break_model(forward)


@contextmanager
def recorded_prompts(server: LocalServer) -> Iterator[list[list[int]]]:
    """Collects the token ids of the prompts that routes hand to the engine."""
    prompts: list[list[int]] = []
    real = server.engine.stream_batch
    server.engine.stream_batch = lambda prompt_ids, *rest: (
        prompts.extend(prompt_ids) or real(prompt_ids, *rest)
    )
    try:
        yield prompts
    finally:
        del server.engine.stream_batch
