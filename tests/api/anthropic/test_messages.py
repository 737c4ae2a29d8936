"""Anthropic's API through its own client: what it reads, whole and streamed, and its errors."""

import json
import threading
from collections.abc import Iterator
from typing import Literal

import anthropic
import httpx2
import pytest
from anthropic.types import (
    Message,
    MessageTokensCount,
    ThreadUnsupportedRequestErrorDetails,
)
from anthropic.types.shared import ErrorResponse
from pydantic import BaseModel

from docs.openai_fields import anthropic_table
from src.api.anthropic.request import CountTokensRequest, MessageRequest
from src.api.fields.shared import NoEffect, Refused
from tests.conftest import wait_until
from tests.support.servers import ROOT, LocalServer, Server, parse_events
from tests.support.wire import (
    PLAIN_TEMPLATE,
    anthropic_client,
    assert_shape,
    fail_after,
    marked,
    post,
)

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
MODEL = "storyteller"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
BODY = {"model": MODEL, "messages": QUESTION, "max_tokens": 30, "temperature": 0}
ASKED = {"model": MODEL, "messages": QUESTION, "max_tokens": 30, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def ai(server) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(server) as client:
        yield client


def events_of(server: Server | LocalServer, **body: object) -> list[dict]:
    """The events of a stream as they are on the wire, each named by its type."""
    response = post(server, MESSAGES, stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [(name, json.loads(data)) for name, data in parse_events(response.text)]
    assert all(name == event["type"] for name, event in events)
    return [event for _, event in events]


def test_a_conversation_is_answered(ai):
    message = ai.messages.create(**ASKED, system="Answer in a sentence.")
    (block,) = message.content
    assert (block.type, block.text) == ("text", "The capital of France is Paris.")
    assert (message.role, message.stop_reason, message.stop_sequence) == (
        "assistant",
        "end_turn",
        None,
    )
    assert message.id.startswith("msg_")
    assert message._request_id


def test_blocks_and_strings_are_equal(ai, server):
    system = "Answer in a sentence."
    plain = {"messages": QUESTION, "system": system}
    cached = {"cache_control": {"type": "ephemeral"}}
    question = [{"type": "text", "text": QUESTION[0]["content"]} | cached]
    blocks = {
        "messages": [{"role": "user", "content": question}],
        "system": [{"type": "text", "text": system} | cached],
    }
    split = {
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]},
        ]
    }
    found = [ai.messages.create(**ASKED | body) for body in (plain, blocks, split)]
    assert len({message.content[0].text for message in found}) == 1
    counts = [ai.messages.count_tokens(model=MODEL, **body) for body in (plain, blocks, split)]
    assert len({count.input_tokens for count in counts}) == 1
    chat = [{"role": "system", "content": system}, *QUESTION]
    tokens = post(server, "/tokenize", messages=chat).json()["tokens"]
    assert counts[0].input_tokens == len(tokens)


def test_consecutive_turns_of_one_role_are_joined(ai):
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
    ]
    one = [{"role": "user", "content": "Hello.\nWhat is it?"}]
    counts = [ai.messages.count_tokens(model=MODEL, messages=some) for some in (turns, one)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"max_tokens": 3}, "max_tokens", None),
        ({"stop_sequences": ["xyz", " France", "capital of F"]}, "stop_sequence", "capital of F"),
        ({"stop_sequences": ["xyz"]}, "end_turn", None),
        ({"top_p": 0.5, "top_k": 3, "temperature": 1}, "end_turn", None),
        ({"metadata": {"user_id": "me"}, "service_tier": "auto"}, "end_turn", None),
        ({"thinking": {"type": "disabled"}}, "end_turn", None),
    ],
)
def test_a_stream_equals_the_whole_message(server, fields, reason, sequence):
    whole = post(server, MESSAGES, **BODY | fields).json()
    if fields.get("temperature") != 1:
        assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert_shape(Message, whole)
    assert set(whole) == set(Message.model_fields) - {"container", "diagnostics", "stop_details"}
    start, block, *deltas, block_end, end, last = events_of(server, **BODY | fields)
    assert start["type"] == "message_start"
    assert block == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "", "citations": None},
    }
    assert {delta["type"] for delta in deltas} == {"content_block_delta"}
    assert block_end == {"type": "content_block_stop", "index": 0}
    assert last == {"type": "message_stop"}
    message = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    assert message["usage"]["output_tokens"] == 0
    if fields.get("temperature") != 1:
        text = "".join(delta["delta"]["text"] for delta in deltas)
        assert text == whole["content"][0]["text"]
        assert end["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
        assert end["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_usage_separates_cached_input_tokens(ai):
    body = ASKED | {
        "messages": [{"role": "user", "content": "How old is the moon, my friend? " * 5}]
    }
    count = ai.messages.count_tokens(model=MODEL, messages=body["messages"])
    assert_shape(MessageTokensCount, count.to_dict())
    for _ in range(2):
        usage = ai.messages.create(**body).usage
        assert usage.input_tokens + usage.cache_read_input_tokens == count.input_tokens
        assert usage.cache_creation_input_tokens == 0
    assert 1 <= usage.input_tokens <= 16  # the last block is always computed
    assert usage.cache_read_input_tokens % 16 == 0 < usage.cache_read_input_tokens
    with ai.messages.stream(**body) as stream:
        assert stream.get_final_message().usage == usage


def test_an_answer_ends_where_the_context_does(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    body = {"model": server.engine.model_name, "messages": [{"role": "user", "content": "the"}]}
    whole = post(server, MESSAGES, max_tokens=5000, **body).json()
    assert whole["stop_reason"] == "model_context_window_exceeded"
    usage = whole["usage"]
    assert sum(usage.values()) == server.engine.max_model_len
    room = server.engine.max_model_len - usage["input_tokens"]
    assert post(server, MESSAGES, max_tokens=room, **body).json()["stop_reason"] == "max_tokens"


class Place(BaseModel):
    """The shape that a schema gives to an answer."""

    city: Literal["Paris", "Rome"]
    size: Literal["small", "large"]


SHAPE = {
    "format": {
        "type": "json_schema",
        "schema": Place.model_json_schema() | {"additionalProperties": False},
    }
}


def test_the_client_parses_an_answer_that_a_schema_shapes(ai):
    message = ai.messages.parse(model=MODEL, max_tokens=200, messages=QUESTION, output_format=Place)
    assert isinstance(message.parsed_output, Place)
    assert message.stop_reason == "end_turn"


def test_a_shaped_answer_is_the_same_as_events(server):
    body = BODY | {"output_config": SHAPE, "max_tokens": 200}
    text = post(server, MESSAGES, **body).json()["content"][0]["text"]
    Place.model_validate_json(text)
    events = events_of(server, **body)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == text


# Errors.


def error_of(response: httpx2.Response, status_code: int, kind: str) -> str:
    """Checks the shape of an error and returns its message."""
    assert response.status_code == status_code, response.text
    body = response.json()
    if (details := body["error"].pop("details", None)) is not None:
        assert_shape(ThreadUnsupportedRequestErrorDetails, details)  # no other error has any
    assert_shape(ErrorResponse, body)
    assert body.keys() == {"type", "error", "request_id"}
    assert body["request_id"] == response.headers["request-id"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["error"]["type"] == kind
    return body["error"]["message"]


def said(content: object) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"stop_sequences": ["a"] * 100}, "stop_sequences"),
        ({"messages": []}, "messages"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": ""}]}, "messages.1.content"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        (said(None), "messages.0.content"),
        (said([{"type": "text"}]), "messages.0.content.0.text"),
        (said(["a"]), "messages.0.content.0"),
        (said([{"type": "image", "source": {"type": "url", "url": "http://169.254.169.254"}}]),
         "messages.0.content"),
        (said("a " * 5000), "messages"),
        ({"system": [{"type": "document"}]}, "system"),
        ({"system": [{"type": "tool_use"}]}, "system"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": "disabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"seed": 1}, "seed"),
        ({"output_config": {"effort": "none"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "objekt"}}}},
            "output_config.format.schema",
        ),
        ({"output_config": SHAPE, "stop_sequences": ["a"]}, "stop_sequences"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(client, fields, place):
    message = error_of(client.post(MESSAGES, json=BODY | fields), 400, "invalid_request_error")
    assert message.startswith(f"{place}: ")


def test_an_image_is_refused_by_name(client):
    body = BODY | said([{"type": "text", "text": "a"}, {"type": "image", "source": {}}])
    message = error_of(client.post(MESSAGES, json=body), 400, "invalid_request_error")
    assert "Block 1 is of type image" in message


def test_every_refused_field_is_refused_by_name(client):
    names = marked(MessageRequest, Refused)
    assert names
    for name in names:
        answer = client.post(MESSAGES, json=BODY | {name: "x"})
        message = error_of(answer, 400, "invalid_request_error")
        assert message.startswith(f"{name}: It is not supported"), message


HALF = rb"""{"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": "\ud800"}]}"""


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 20_000, HALF])
def test_a_body_that_is_no_request_is_refused(client, content):
    headers = {"Content-Type": "application/json"}
    response = client.post(MESSAGES, content=content, headers=headers)
    error_of(response, 400, "invalid_request_error")


def test_errors_of_the_framework_have_the_same_shape(client):
    error_of(client.post("/v1/messages/nothing", json={}), 404, "not_found_error")
    response = client.get(MESSAGES)
    error_of(response, 405, "invalid_request_error")
    assert response.headers["allow"] == "POST"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    error_of(client.post(MESSAGES, content=b"a=b", headers=form), 415, "invalid_request_error")
    body = BODY | {"metadata": {"user_id": "a" * 2**22}}
    error_of(client.post(MESSAGES, json=body), 413, "invalid_request_error")


def test_a_full_queue_makes_the_client_retry(start_server):
    server = start_server(max_batch_size=1, max_queue_size=0, chat_template=PLAIN_TEMPLATE)
    gate = server.hold()
    body = {"model": server.engine.model_name, "messages": QUESTION, "max_tokens": 3}
    asking = threading.Thread(target=post, args=[server, MESSAGES], kwargs=body)
    asking.start()
    gate.wait()
    error_of(post(server, MESSAGES, **body), 503, "overloaded_error")
    retrying = anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=8)
    opening = threading.Timer(0.5, gate.open)
    opening.start()
    assert retrying.messages.create(**body).stop_reason == "max_tokens"
    asking.join()


def test_a_stream_that_fails_ends_with_an_error_that_the_client_raises(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    fail_after(server, 5)
    body = {"model": server.engine.model_name, "messages": QUESTION, "max_tokens": 50}
    events = []
    with anthropic_client(server) as client, client.messages.create(**body, stream=True) as stream:
        with pytest.raises(anthropic.APIStatusError) as caught:
            events += stream
        assert caught.value.type == "api_error"
    assert "made to fail" not in str(caught.value)
    wait_until(lambda: server.sample("inference_sequences_failed_total", "error") == 1)
    endpoint = ("inference_requests_total", MESSAGES, "error")
    wait_until(lambda: server.sample(*endpoint) == 1)


def test_the_documentation_has_every_field():
    page = (ROOT / "docs/anthropic.md").read_text()
    assert anthropic_table() in page
    for kind in (MessageRequest, CountTokensRequest):
        for name in (*marked(kind, NoEffect), *marked(kind, Refused)):
            assert f"| `{name}` |" in page
