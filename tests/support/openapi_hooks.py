"""Hooks for schemathesis, named in `tests/support/openapi_checks.toml`.

Most generated requests ask for the served model, as those for another end before they are read.
A schema cannot say which fields go together, which tokens a model has or how much fits its context.
So valid requests may be refused for such reasons, and for no others.
"""

import functools
import json
import os
import re
import zlib

import httpx2
import jsonschema_rs
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

# Messages about a field of a wrong shape, pydantic's and ours.
WRONG_SHAPE = re.compile(
    r"Field required|Input should|(List|String|Dictionary|Value) should|There is no such field"
    r"|It must be|Item \d+ (is neither|holds)|Part \d+ must|A key must"
)


KEY = "OPENAPI_CHECKS_KEY"
"""The variable that holds the API key, if the service asks for one."""


@functools.cache
def served_model(url: str) -> str:
    headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if KEY in os.environ else {}
    models = httpx2.get(f"{url.rstrip('/')}/v1/models", headers=headers).json()["data"]
    return models[0]["id"]


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        name = body["model"].encode("utf-8", "replace")
        if zlib.crc32(name) % 8:  # some stay as they are
            body["model"] = served_model(case.operation.base_url)


@schemathesis.check
def valid_requests_are_refused_for_what_no_schema_says(
    context: CheckContext, response: Response, case: Case
) -> None:
    """A refusal of the shape of what the schema allows: the schema says too little."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    assert response.status_code in (200, 400, 404, 422, 503), "valid data is refused"
    if response.status_code in (400, 422):
        found = WRONG_SHAPE.search(response.text)
        assert not found, f"the schema does not say this: {response.text}"


@schemathesis.check
def events_are_what_the_document_says(
    context: CheckContext, response: Response, case: Case
) -> None:
    """schemathesis reads the events, and this what their data is."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    documented = case.operation.definition.raw["responses"]["200"]["content"]["text/event-stream"]
    kinds = documented["itemSchema"]["properties"]["data"]["anyOf"]
    schema = {"anyOf": [kind["contentSchema"] for kind in kinds if "contentSchema" in kind]}
    events = response.text.removesuffix("\n\n").split("\n\n")
    data = [event.partition("data: ")[2] for event in events]
    if kinds[-1] == {"const": "[DONE]"} and "error" not in data[-1]:
        assert data.pop() == "[DONE]"
    for one in data:
        jsonschema_rs.validate(schema, json.loads(one))
