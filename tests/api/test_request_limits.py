"""Settings that bound one request; a request for more is refused with the limit."""

import json
import shutil

import httpx2
import pytest

from tests.support.servers import LocalServer
from tests.support.tools import TEMPLATES

CHAT = {"messages": [{"role": "user", "content": "the cat sat"}], "max_tokens": 1}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
INCLUDED = ["message.output_text.logprobs"]
OK = {
    "/generate": {"prompt": "the", "max_length": 1},
    "/v1/completions": {"prompt": "the", "max_tokens": 1},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "the", "max_output_tokens": 1},
    "/v1/embeddings": {"input": "the"},
    "/tokenize": {"prompt": "the"},
}


def ask(server: LocalServer, path: str, **body: object) -> httpx2.Response:
    body = OK[path] | body
    if path != "/generate":
        body = {"model": server.engine.model_name} | body
    return httpx2.post(server.url + path, json=body, timeout=60)


def assert_refused(answer: httpx2.Response, *words: str, param: str | None = None) -> None:
    is_native = "detail" in answer.json()
    assert answer.status_code == (422 if is_native else 400), answer.text
    for word in words:
        assert word in answer.text
    if param is not None and not is_native:
        assert answer.json()["error"]["param"] == param


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("depth", [16, 800])
def test_deeply_nested_json(start_server, depth):
    server = start_server(max_json_depth=depth)
    for path in ("/generate", "/v1/completions", "/v1/embeddings"):
        within = ask(server, path, unknown=nested(depth - 1))  # the body is a level too
        assert "unknown" in within.text
        assert "levels" not in within.text
        refused = ask(server, path, unknown=nested(depth))
        assert_refused(refused, f"more than {depth} levels")


def test_bytes_of_a_prompt(start_server):
    server = start_server(max_prompt_bytes=11, chat_template=TEMPLATE)
    for path in OK:
        assert ask(server, path).status_code == 200, path
    for path in ("/generate", "/v1/completions", "/tokenize"):
        assert_refused(ask(server, path, prompt="é" * 6), "12 bytes", "takes 11", "prompt")
    assert_refused(ask(server, "/v1/embeddings", input=["the", "x" * 12]), "12 bytes")
    messages = [*CHAT["messages"], {"role": "user", "content": "!"}]
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert_refused(ask(server, path, messages=messages), "bytes, and this server takes 11")


def test_tools_and_calls_count_towards_the_limits(start_server):
    server = start_server(max_prompt_bytes=600, chat_template=TEMPLATES["hermes"])
    function = {"name": "look", "description": "x" * 700, "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    assert_refused(ask(server, "/v1/chat/completions", tools=tools), "bytes", "takes 600")
    claude = [{"name": "look", "description": "x" * 700, "input_schema": {"type": "object"}}]
    assert_refused(ask(server, "/v1/messages", tools=claude), "bytes", "takes 600")
    call = {"name": "look", "arguments": json.dumps({"at": "x" * 700})}
    calls = [{"id": "1", "type": "function", "function": call}]
    said = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "."},
    ]
    body = {"messages": [*CHAT["messages"], *said]}
    assert_refused(ask(server, "/v1/chat/completions", **body), "bytes", "takes 600")


def test_stop_texts_and_their_length(start_server):
    server = start_server(max_stop_texts=2, max_stop_length=200, chat_template=TEMPLATE)
    for path in ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/messages"):
        name = "stop_sequences" if path == "/v1/messages" else "stop"
        assert ask(server, path, **{name: ["x" * 200, "y"]}).status_code == 200
        param = None if path == "/v1/messages" else "stop"
        refused = ask(server, path, **{name: ["x", "y", "z"]})
        assert_refused(refused, "3 stop texts", "takes 2", param=param)
        refused = ask(server, path, **{name: ["x" * 201]})
        assert_refused(refused, "201 characters", "takes 200", param=param)


def test_more_stop_texts_than_usual_end_a_generation(start_server, reciting_model):
    model = str(reciting_model("the cat sat on the mat. "))
    server = start_server(model_name=model, max_stop_texts=256)
    stop = [*(f"no{number}" for number in range(255)), "cat"]
    (generated,) = ask(server, "/generate", max_length=20, stop=stop).json()["generated"]
    assert generated["finish_reason"] == "stop"


def test_sequences_of_a_request(start_server):
    server = start_server(max_request_sequences=3)
    assert ask(server, "/v1/completions", n=3).status_code == 200
    assert ask(server, "/v1/completions", prompt=["a", "b", "c"]).status_code == 200
    assert_refused(ask(server, "/v1/completions", n=4), "4 sequences", "have, 3", param="n")
    assert_refused(ask(server, "/v1/completions", prompt=["a", "b"], n=2), "4 sequences")
    assert_refused(ask(server, "/generate", num_return_sequences=4), "4 sequences")


@pytest.mark.parametrize(
    ("path", "fits", "exceeds", "param"),
    [
        ("/v1/completions", {"n": 2, "logprobs": 4}, {"n": 2, "logprobs": 5}, "logprobs"),
        ("/v1/completions", {"n": 10, "logprobs": 0}, {"n": 11, "logprobs": 0}, "logprobs"),
        (
            "/v1/completions",
            {"prompt": [[5] * 4], "echo": True, "logprobs": 1},
            {"prompt": [[5] * 5], "echo": True, "logprobs": 1},
            "logprobs",
        ),
        ("/generate", {"logprobs": 9}, {"logprobs": 10}, "logprobs"),
        (
            "/generate",
            {"prompt_logprobs": 4, "num_return_sequences": 2},
            {"prompt_logprobs": 5, "num_return_sequences": 2},
            "prompt_logprobs",
        ),
        (
            "/v1/chat/completions",
            {"logprobs": True, "top_logprobs": 9},
            {"logprobs": True, "top_logprobs": 10},
            "logprobs",
        ),
        (
            "/v1/responses",
            {"include": INCLUDED, "top_logprobs": 9},
            {"include": INCLUDED, "top_logprobs": 10},
            "top_logprobs",
        ),
    ],
)
def test_log_probabilities_of_a_request(start_server, path, fits, exceeds, param):
    server = start_server(max_request_logprobs=10, chat_template=TEMPLATE)
    assert ask(server, path, **fits).status_code == 200
    words = ("log-probabilities", "allows 10 (MAX_REQUEST_LOGPROBS): ask for fewer")
    assert_refused(ask(server, path, **exceeds), *words, param=param)
    assert_refused(ask(server, path, **exceeds, stream=True), *words, param=param)


def test_tokens_of_a_request_are_its_prompts_and_n_times_max_tokens(start_server):
    server = start_server(max_request_tokens=21)
    for body in ({"max_tokens": 20}, {"max_tokens": 10, "n": 2}):
        assert ask(server, "/v1/completions", **body).status_code == 200
    for body in ({"max_tokens": 21}, {"max_tokens": 7, "n": 3}, {"prompt": ["the"] * 11}):
        refused = ask(server, "/v1/completions", **body)
        assert_refused(refused, "up to 22 tokens", "allows 21", param="max_tokens")
    assert_refused(ask(server, "/generate", max_length=21), "up to 22 tokens", "max_length")
    streamed = ask(server, "/v1/completions", max_tokens=21, stream=True)
    assert_refused(streamed, "up to 22 tokens")
    refused = ask(server, "/v1/embeddings", input=["the"] * 22)
    assert_refused(refused, "up to 22 tokens", param="input")
    refused = ask(server, "/v1/completions", prompt=["the"] * 21)
    assert_refused(refused, "up to 42 tokens", param="prompt")


def test_a_chat_that_names_no_number_of_tokens_has_as_many_as_its_log_probabilities_allow(
    start_server,
):
    server = start_server(max_request_logprobs=10, chat_template=TEMPLATE)
    path = "/v1/chat/completions"
    answer = ask(server, path, logprobs=True, top_logprobs=4, max_tokens=None, seed=1)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 2
    assert ask(server, path, max_tokens=None, seed=1).json()["usage"]["completion_tokens"] > 2


def test_a_request_that_the_kv_cache_cannot_hold_is_refused_with_the_figures(
    start_server, tiny_model, tmp_path
):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "long-context")
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 100_000
    (folder / "config.json").write_text(json.dumps(config))
    num_values = 2 * config["num_hidden_layers"] * config["num_key_value_heads"]
    per_token = 4 * num_values * (config["hidden_size"] // config["num_attention_heads"])
    server = start_server(model_name=str(folder), kv_cache_gb=1600 * per_token / 2**30)
    assert server.engine.max_model_len == 1600
    assert ask(server, "/v1/completions", max_tokens=1500).status_code == 200
    for path, field in (("/v1/completions", "max_tokens"), ("/generate", "max_length")):
        answer = ask(server, path, **{field: 1600})
        assert_refused(answer, "1600 tokens", "100000 do not fit KV_CACHE_GB", param=field)
