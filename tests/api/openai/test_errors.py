"""Errors of OpenAI's API: their status, their body, and what OpenAI's client makes of them."""

import json

import httpx2
import openai
import pytest
from fastapi.testclient import TestClient

from src.api.fields.shared import Refused
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.completions.schemas import CompletionRequest
from src.main import create_app
from tests.api.openai.test_chat_and_completions import CHAT, MODEL, QUESTION, STORY
from tests.conftest import create_settings
from tests.support.wire import fail_after, marked, openai_client

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"


def error_of(response: httpx2.Response, status_code: int) -> dict:
    """Checks the shape of an error answer and returns its error."""
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def refused(client: TestClient, path: str, body: dict, status_code: int = 400) -> tuple:
    error = error_of(client.post(path, json=body), status_code)
    assert error["type"] == "invalid_request_error"
    return error["param"], error["code"]


def said(content: object) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 10**9}, "n", "invalid_value"),
        ({"stop": ""}, "stop.[0]", "invalid_value"),
        ({"stop": ["a"] * 1000}, "stop", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"100000": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.[0]", "invalid_value"),
        ({"min_tokens": 31}, "min_tokens", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"x": 1}},
            "stream_options.x",
            "unknown_parameter",
        ),
        ({"store": 0}, "store", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_value"),
        ({"n": "1"}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"logit_bias": {" 5": 1}}, "logit_bias. 5.[key]", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"model": 5}, "model", "invalid_value"),
    ],
)
def test_an_invalid_field_of_any_request_is_named(client, fields, param, code):
    for path, body in ((CHATS, CHAT), (TEXTS, STORY)):
        assert refused(client, path, body | fields) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        (said(None), "messages.[0].content", "invalid_value"),
        (said([{"type": "text"}]), "messages.[0].content", "invalid_value"),
        (said(["a"]), "messages.[0].content", "invalid_value"),
        (
            said([{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}]),
            "messages.[0].content",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "user"}]}, "messages.[0].content", "invalid_value"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "messages.[0].role", "invalid_value"),
        (said("a " * 5000), "messages", "context_length_exceeded"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", "context_length_exceeded"),
        ({"max_tokens": 31}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"max_completion_tokens": 2**63}, "max_completion_tokens", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        (
            {"response_format": {"type": "grammar"}},
            "response_format.type",
            "invalid_value",
        ),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unsupported_parameter"),
    ],
)
def test_an_invalid_field_of_a_chat_is_named(client, fields, param, code):
    assert refused(client, CHATS, CHAT | fields) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
        ({"prompt": [1, True]}, "prompt", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
        ({"prompt": ["a", ""]}, "prompt.[1]", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [[1], [10**9]]}, "prompt.[1]", "invalid_value"),
        ({"prompt": "a" * 1_000_000}, "prompt", "context_length_exceeded"),
        ({"prompt": [5] * 1020}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"logprobs": 10**6}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"prompt": ["a"] * 128, "n": 128}, "n", "invalid_value"),
    ],
)
def test_an_invalid_field_of_a_completion_is_named(client, fields, param, code):
    assert refused(client, TEXTS, STORY | fields) == (param, code)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [(CHATS, ChatCompletionRequest, CHAT), (TEXTS, CompletionRequest, STORY)],
)
def test_every_refused_field_is_refused_by_name(client, path, kind, body):
    names = marked(kind, Refused)
    assert names
    for name in names:
        assert refused(client, path, body | {name: "x"}) == (name, "unsupported_parameter")


def test_all_problems_are_told_at_once(client):
    error = error_of(client.post(TEXTS, json={"prompt": 5, "top_p": 2, "foo": 1}), 400)
    for name in ("model: ", "prompt: ", "top_p: ", "foo: "):
        assert name in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHATS, CHAT | said("\ud800")),
        (CHATS, CHAT | said([{"type": "text", "text": "a\udc00"}])),
        (TEXTS, STORY | {"prompt": ["a", "\ud83d\ud83d\ude00"]}),
        (TEXTS, STORY | {"user": "\\\ud800"}),
        ("/v1/responses", {"model": MODEL, "input": "a", "metadata": {"a": "\udfff"}}),
        ("/v1/embeddings", {"model": MODEL, "input": "\udbff"}),
        ("/tokenize", {"prompt": "\ud800"}),
    ],
)
def test_a_lone_surrogate_is_refused_anywhere(client, path, body):
    headers = {"Content-Type": "application/json"}
    response = client.post(path, content=json.dumps(body), headers=headers)
    error = error_of(response, 400)
    assert (error["code"], error["param"]) == ("invalid_json", None)
    assert "Unpaired surrogate" in error["message"]


def test_a_lone_surrogate_in_arguments_is_refused(client):
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": "\\ud800"}'},
    }
    calling = {"role": "assistant", "tool_calls": [call]}
    body = CHAT | {"messages": [calling, {"role": "tool", "tool_call_id": "1", "content": "a"}]}
    place = "messages.[0].tool_calls.[0].function.arguments"
    assert refused(client, CHATS, body) == (place, "invalid_value")


def test_surrogate_pairs_are_read_in_any_spelling(client):
    written = [r'"\ud83d\ude00"', r'"\uD83D\uDE00"', '"😀"']
    answers = []
    for one in written:
        content = f'\ufeff{{"prompt": {one}}}'.encode()
        response = client.post(
            "/tokenize", content=content, headers={"Content-Type": "application/json"}
        )
        answers.append(response.json()["tokens"])
    assert answers == answers[:1] * 3
    assert client.post("/tokenize", json={"prompt": "\\ud800"}).status_code == 200


def test_error_messages_use_json_terms(client):
    error = error_of(client.post(CHATS, json=CHAT | said(["a"])), 400)
    assert error["message"].endswith('Part 0 must be {"type": "text", "text": "…"}')
    error = error_of(client.post(CHATS, json=CHAT | {"response_format": "json"}), 400)
    assert error["message"] == "response_format: Input should be a JSON object"


def test_another_model_is_not_found(client):
    for path, body in ((CHATS, CHAT), (TEXTS, STORY), ("/tokenize", {"prompt": "a"})):
        answer = refused(client, path, body | {"model": "gpt-4"}, 404)
        assert answer == ("model", "model_not_found")
    error = error_of(client.get("/v1/models/gpt-4"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert MODEL in error["message"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("gpt-4", "`gpt-4`"),
        ("größer/模型", "`größer/模型`"),
        ("a\nb\u202e\x1b[31m", r"`a\nb\u202e\x1b[31m`"),
        ("long" * 1000, f"`{'long' * 20}…`"),
    ],
)
def test_the_model_that_was_asked_for_is_named(client, name, shown):
    error = error_of(client.post(CHATS, json=CHAT | {"model": name}), 404)
    expected = f"model: The model {shown} does not exist here; the served model is `{MODEL}`."
    assert error["message"] == expected.removeprefix("model: ")


def test_unknown_paths_and_methods(client):
    assert error_of(client.post("/v1/nothing", json={}), 404)["code"] == "unknown_url"
    assert error_of(client.get("/v1"), 404)["code"] == "unknown_url"
    for path in (TEXTS, CHATS, "/tokenize"):
        response = client.get(path)
        assert error_of(response, 405)["code"] == "method_not_supported"
        assert response.headers["allow"] == "POST"
    assert client.get("/v10").json() == {"detail": "Not Found"}


def test_the_host_header_does_not_decide_the_shape(client):
    response = client.get("/nothing", headers={"Host": "x/v1/models?"})
    assert response.json() == {"detail": "Not Found"}
    assert error_of(client.get("/v1/nothing", headers={"Host": "x/generate?"}), 404)


def test_over_the_limit(start_server):
    server = start_server(rate_limit_requests=1)
    body = {"model": server.engine.model_name, "prompt": "the", "max_tokens": 1}
    with openai_client(server) as client:
        client.completions.create(**body)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**body, stream=True)
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        client.models.list()


def test_while_the_model_loads(tiny_model):
    app = create_app(create_settings(model_name=str(tiny_model())))
    client = TestClient(app)  # its lifespan has not begun
    body = {"model": tiny_model().name, "prompt": "the"}
    for response in (client.post(TEXTS, json=body), client.get("/v1/models")):
        assert error_of(response, 503)["code"] == "unavailable"
        assert int(response.headers["retry-after"]) >= 1


def test_a_model_that_fails(start_server):
    server = start_server()
    fail_after(server, 0)
    body = {"model": server.engine.model_name, "prompt": "the"}
    for fields in ({}, {"stream": True}):
        response = httpx2.post(server.url + TEXTS, json=body | fields)
        error = error_of(response, 500)
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert "made to fail" not in error["message"]


def test_a_stream_that_fails_ends_with_an_error_that_the_client_raises(start_server):
    server = start_server(chat_template="{{ messages[0].content }}")
    fail_after(server, 5)
    name = server.engine.model_name
    chat = {"model": name, "messages": QUESTION}
    with openai_client(server) as client:
        with pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(**chat, stream=True))
        assert caught.value.type == "server_error"
        assert "made to fail" not in str(caught.value)
    response = httpx2.post(server.url + TEXTS, json={"model": name, "prompt": "a", "stream": True})
    assert error_of(response, 500)


def test_an_unforeseen_error_has_the_shape_too(start_client, tiny_model, capfd):
    client = start_client(model_name=str(tiny_model()))
    client.app.state.service.engine._lifecycle.codec = None  # what no route expects
    body = {"model": tiny_model().name, "prompt": "the", "logprobs": 1}
    error = error_of(client.post(TEXTS, json=body), 500)
    assert error["message"] == "Internal server error."


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": QUESTION}])
def test_tokenize_takes_one_of_two(client, body):
    assert refused(client, "/tokenize", body) == ("prompt", "invalid_value")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt"),
        ({"messages": QUESTION, "continue_final_message": True}, "continue_final_message"),
        ({"messages": QUESTION, "add_special_tokens": True}, "add_special_tokens"),
    ],
)
def test_tokenize_refuses_contradictory_fields(client, fields, param):
    assert refused(client, "/tokenize", fields) == (param, "invalid_value")


def test_detokenize_refuses_invalid_token_ids(client):
    assert refused(client, "/detokenize", {"tokens": [10**9]}) == ("tokens", "invalid_value")
    assert refused(client, "/detokenize", {"tokens": [1.5]}) == ("tokens.[0]", "invalid_value")
