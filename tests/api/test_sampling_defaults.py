"""Sampling parameters that a request leaves out, in all APIs, whole and streamed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.servers import parse_events
from tests.support.wire import PLAIN_TEMPLATE

TEXT = "the cat"
MESSAGES = [{"role": "user", "content": TEXT}]
NUM_TOKENS = 12


def whole_text(body: dict) -> str:
    """Returns the text of an answer of any API."""
    if "generated" in body:
        return body["generated"][0]["text"]
    if "choices" in body:
        (choice,) = body["choices"]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    parts = body["content"] if "content" in body else body["output"][0]["content"]
    return parts[0]["text"]


def streamed_text(events: list[tuple[str, str]]) -> str:
    """Returns the text of a stream of any API."""
    text = ""
    for _, data in events:
        event = {} if data == "[DONE]" else json.loads(data)
        choices = event.get("choices", [])
        delta = event.get("delta") or (choices[0].get("delta") if choices else {}) or {}
        if isinstance(delta, str):
            text += delta
        else:
            text += delta.get("text") or delta.get("content") or ""
        text += event.get("text", "") if "index" in event else ""
        text += choices[0].get("text", "") if choices else ""
    return text


ROUTES = {
    "/generate": {"prompt": TEXT, "max_length": NUM_TOKENS, "return_full_text": False},
    "/v1/completions": {"prompt": TEXT, "max_tokens": NUM_TOKENS},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": NUM_TOKENS},
    "/v1/responses": {"input": TEXT, "max_output_tokens": NUM_TOKENS},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": NUM_TOKENS},
}
TAKES_TOP_K = [path for path in ROUTES if path != "/v1/responses"]


def ask(client: TestClient, path: str, *, stream: bool = False, **fields: object) -> str:
    body = ROUTES[path] | fields
    if path != "/generate":
        body["model"] = model_of(client)["id"]
    response = client.post(path, json=body | {"stream": stream})
    assert response.status_code == 200, response.text
    return streamed_text(parse_events(response.text)) if stream else whole_text(response.json())


def model_of(client: TestClient) -> dict:
    (model,) = client.get("/v1/models").json()["data"]
    return model


@pytest.fixture
def start(start_client, tiny_model, tmp_path) -> Callable[..., TestClient]:
    """Returns a client of a model with these entries in generation_config.json."""

    def start(entries: dict[str, object], **settings: object) -> TestClient:
        folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        settings = {"model_name": str(folder), "chat_template": PLAIN_TEMPLATE} | settings
        client = start_client(**settings)
        client.app.state.service.engine._lifecycle.loaded.eos_token_ids.clear()
        return client

    return start


def test_the_models_defaults_hold_in_all_apis(start):
    client = start({"top_k": 1, "temperature": 1.5})
    for path in ROUTES:
        greedy = ask(client, path, temperature=0)
        assert {ask(client, path), ask(client, path, stream=True)} == {greedy}
    for path in TAKES_TOP_K:
        assert ask(client, path, top_k=0) != ask(client, path)
    assert model_of(client)["sampling_defaults"] == {
        "temperature": {"value": 1.5, "source": "model"},
        "top_p": {"value": 1, "source": "api"},
        "top_k": {"value": 1, "source": "model"},
        "min_p": {"value": 0, "source": "api"},
        "repetition_penalty": {"value": 1, "source": "api"},
    }


def test_a_default_penalty_changes_greedy_answers_too(start):
    client = start({"repetition_penalty": 1.5})
    for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
        asked = {"temperature": 0}
        default = ask(client, path, **asked)
        assert default == ask(client, path, **asked, repetition_penalty=1.5)
        assert default != ask(client, path, **asked, repetition_penalty=1)


def test_a_setting_precedes_the_model_for_all_apis(start):
    client = start({"temperature": 1.5, "top_p": 0.5}, temperature=0)
    for path in ROUTES:
        greedy = ask(client, path, temperature=0)
        assert {ask(client, path), ask(client, path, stream=True)} == {greedy}
        assert ask(client, path, temperature=1, top_p=1) != greedy
    defaults = model_of(client)["sampling_defaults"]
    assert defaults["temperature"] == {"value": 0, "source": "setting"}
    assert defaults["top_p"] == {"value": 0.5, "source": "model"}


def test_without_the_models_the_apis_keep_their_own(start):
    client = start({"top_k": 1, "temperature": 0}, generation_config="none")
    for path in ROUTES:
        greedy = ask(client, path, temperature=0)
        assert ask(client, path) != greedy
    sources = {one["source"] for one in model_of(client)["sampling_defaults"].values()}
    assert sources == {"api"}
    seeded = {"seed": 3}
    explicit = ask(client, "/generate", temperature=0.7, top_p=0.9, **seeded)
    assert ask(client, "/generate", **seeded) == explicit
    explicit = ask(client, "/v1/completions", temperature=1, top_p=1, **seeded)
    assert ask(client, "/v1/completions", **seeded) == explicit


def test_a_response_names_the_parameters_that_it_had(start):
    client = start({"temperature": 0.25}, top_p=0.5)
    body = ROUTES["/v1/responses"] | {"model": model_of(client)["id"]}
    answer = client.post("/v1/responses", json=body).json()
    assert (answer["temperature"], answer["top_p"]) == (0.25, 0.5)
    answer = client.post("/v1/responses", json=body | {"temperature": 1, "top_p": 1}).json()
    assert (answer["temperature"], answer["top_p"]) == (1, 1)


def test_invalid_defaults_of_a_model_do_not_stop_the_start(start):
    client = start({"temperature": -1, "top_p": "a lot", "top_k": 1})
    assert ask(client, "/generate", seed=1) == ask(client, "/generate", temperature=0)
    defaults = model_of(client)["sampling_defaults"]
    assert [name for name in defaults if defaults[name]["source"] == "model"] == ["top_k"]
