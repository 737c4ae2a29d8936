"""SERVED_MODEL_NAME over HTTP: all APIs take each name, and answer with the first."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.hub import run_hub, use_hub
from tests.support.servers import LocalServer, serve_app
from tests.support.wire import PLAIN_TEMPLATE, anthropic_client, openai_client, post

NAMES = ("assistant", "team/assistant", "größer 2")
MESSAGES = [{"role": "user", "content": "the cat"}]
BODIES: dict[str, dict[str, object]] = {
    "/v1/completions": {"prompt": "the cat", "max_tokens": 2},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/responses": {"input": "the cat", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/embeddings": {"input": "the cat"},
    "/tokenize": {"prompt": "the cat"},
    "/detokenize": {"tokens": [5]},
}
WITHOUT_MODEL = {"/v1/messages/count_tokens", "/tokenize", "/detokenize"}
STREAMED = ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"]


@pytest.fixture(scope="module")
def folder(tiny_model) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def named(one_thread, folder) -> Iterator[LocalServer]:
    """A server with a folder's model under several names."""
    settings = create_settings(
        model_name=str(folder), served_model_name=",".join(NAMES), chat_template=PLAIN_TEMPLATE
    )
    with serve_app(create_app(settings)) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_taken_and_the_first_answers(named, path, name):
    response = post(named, path, model=name, **BODIES[path])
    assert response.status_code == 200, response.text
    assert response.json().get("model") == (None if path in WITHOUT_MODEL else NAMES[0])


@pytest.mark.parametrize("path", STREAMED)
def test_streams_carry_the_first_name(named, path):
    text = post(named, path, model=NAMES[1], stream=True, **BODIES[path]).text
    assert f'"model":"{NAMES[0]}"' in text.replace(": ", ":")
    assert NAMES[1] not in text


def test_the_native_api_answers_with_the_first_name(named):
    body = {"prompt": "the cat", "max_length": 2}
    assert named.post(body).json()["model"] == NAMES[0]
    (answer,) = post(named, "/generate/batch", prompts=["the cat"], max_length=2).json()
    assert answer["model"] == NAMES[0]


def test_clients_list_and_retrieve_each_name(named):
    with openai_client(named) as client:
        listed = client.models.list().data
        assert [model.id for model in listed] == list(NAMES)
        assert [client.models.retrieve(model.id) for model in listed] == listed
        assert {model.to_dict()["root"] for model in listed} == {NAMES[0]}
    with anthropic_client(named) as client:
        answer = client.messages.create(model=NAMES[2], max_tokens=2, messages=MESSAGES)
        assert answer.model == NAMES[0]


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_name_is_answered_with_the_known_ones(named, path, folder):
    for name in ("gpt-4", str(folder), folder.name):
        response = post(named, path, model=name, **BODIES[path])
        assert response.status_code == 404
        message = response.json()["error"]["message"]
        known = "`assistant` or `team/assistant` or `größer 2`"
        assert f"The model `{name}` does not exist here; the served model is {known}." in message
    assert named.get(f"/v1/models/{folder}").status_code == 404


def test_examples_of_the_document_use_the_first_name(named):
    document = named.get("/openapi.json").json()
    examples = [
        example["model"]
        for schema in document["components"]["schemas"].values()
        for example in schema.get("examples", [])
        if "model" in example
    ]
    assert len(examples) > 5
    assert set(examples) == {NAMES[0]}
    assert "storyteller" not in json.dumps(document)


def test_metrics_have_the_first_name(named):
    post(named, "/v1/completions", model=NAMES[1], **BODIES["/v1/completions"])
    text = named.get("/metrics").text
    assert f'gen_ai_request_model="{NAMES[0]}"' in text
    assert NAMES[1] not in text


def test_no_answer_holds_the_path_of_the_folder(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    folder = Path(server.service.settings.model_name)
    assert server.engine.names.served == (folder.name,)
    answers = [post(server, path, model=folder.name, **body) for path, body in BODIES.items()]
    answers += [post(server, path, model="gpt-4", **body) for path, body in BODIES.items()]
    paths = ("/v1/models", "/metrics", "/openapi.json", "/tokenizer_info", "/health", "/docs")
    answers += [server.get(path) for path in paths]
    answers.append(server.post({"prompt": "the cat", "max_length": 2}))
    for answer in answers:
        assert answer.status_code in (200, 404), answer.text
        assert str(folder.parent) not in answer.text


def test_a_hub_id_is_taken_and_listed_as_root(tmp_path, folder, start_server):
    with run_hub() as hub, use_hub(hub.url):
        hub.add("org/model", folder, revision="v1")
        server = start_server(model_name="org/model@v1", model_cache_dir=tmp_path / "cache")
    body = BODIES["/v1/completions"]
    for name in ("model", "org/model", "org/model@v1"):
        assert post(server, "/v1/completions", model=name, **body).json()["model"] == "model"
        described = server.get(f"/v1/models/{name}").json()
        assert (described["id"], described["root"]) == (name, "org/model")
    (listed,) = server.get("/v1/models").json()["data"]
    assert (listed["id"], listed["root"]) == ("model", "org/model")
    assert post(server, "/v1/completions", model="other/model", **body).status_code == 404
