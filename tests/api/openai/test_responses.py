"""`/v1/responses` through OpenAI's client: what it reads, field by field, whole and streamed."""

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

from tests.api.openai.test_chat_and_completions import CHAT, MODEL, QUESTION
from tests.api.openai.test_errors import refused
from tests.conftest import wait_until
from tests.support.servers import LocalServer, Server, parse_events
from tests.support.wire import (
    PLAIN_TEMPLATE,
    assert_no_extras,
    assert_shape,
    fail_after,
    openai_client,
    post,
)

RESPONSES = "/v1/responses"
TEXT = QUESTION[0]["content"]
ANSWER = "The capital of France is Paris."
BODY = {"model": MODEL, "input": TEXT, "temperature": 0}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


@pytest.fixture(scope="module")
def ai(server) -> Iterator[openai.OpenAI]:
    with openai_client(server) as client:
        yield client


def events_of(server: Server | LocalServer, **body: object) -> list[dict]:
    """The events of a stream as they are on the wire: named by their types, and numbered."""
    response = post(server, RESPONSES, stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    named = [(name, json.loads(data)) for name, data in parse_events(response.text)]
    assert all(name == event["type"] for name, event in named)
    events = [event for _, event in named]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_a_text_is_answered(ai):
    response = ai.responses.create(**BODY)
    assert response.output_text == ANSWER
    assert (response.status, response.error, response.incomplete_details) == (
        "completed",
        None,
        None,
    )
    assert response.id.startswith("resp_")
    (message,) = response.output
    assert (message.role, message.status) == ("assistant", "completed")
    assert message.id.startswith("msg_")
    assert response.completed_at >= response.created_at > 1.6e9


def test_input_as_text_messages_or_parts_is_equal(ai):
    inputs = [
        TEXT,
        QUESTION,
        [{"type": "message", "role": "user", "content": TEXT}],
        [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
    ]
    usages = [ai.responses.create(**BODY | {"input": one}).usage for one in inputs]
    assert len({usage.input_tokens for usage in usages}) == 1
    assert len({usage.output_tokens for usage in usages}) == 1


def test_instructions_come_before_the_conversation_as_the_systems(ai, server):
    chat = [{"role": "system", "content": "Be short."}, *QUESTION]
    expected = len(post(server, "/tokenize", messages=chat).json()["tokens"])
    for fields in (
        {"instructions": "Be short."},
        {"input": [{"role": "developer", "content": "Be short."}, *QUESTION]},
    ):
        assert ai.responses.create(**BODY | fields).usage.input_tokens == expected


def test_the_answer_is_that_of_a_chat(ai):
    response = ai.responses.create(**BODY, **LOGPROBS)
    chat = ai.chat.completions.create(
        **CHAT | {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    )
    (choice,) = chat.choices
    assert response.output_text == choice.message.content
    assert response.usage.output_tokens == chat.usage.completion_tokens
    ours = [one.to_dict() for one in response.output[0].content[0].logprobs]
    assert [one["token"] for one in ours] == [one.token for one in choice.logprobs.content]
    assert set(ours[0]) == {"token", "logprob", "bytes", "top_logprobs"}


@pytest.mark.parametrize("fields", [{}, {"max_output_tokens": 3}, LOGPROBS, {"instructions": "a"}])
def test_a_stream_equals_the_whole_answer(server, fields):
    whole = post(server, RESPONSES, **BODY | fields).json()
    assert_shape(Response, whole)
    created, working, item, part, *deltas, text, part_end, item_end, end = events_of(
        server, **BODY | fields
    )
    ending = "incomplete" if "max_output_tokens" in fields else "completed"
    kinds = [event["type"] for event in (created, working, item, part)]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert {event["type"] for event in deltas} == {"response.output_text.delta"}
    assert [event["type"] for event in (text, part_end, item_end, end)] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{ending}",
    ]
    assert created["response"] == working["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    assert item["item"]["content"] == []
    last = end["response"]
    assert last["status"] == whole["status"] == ending
    assert "".join(event["delta"] for event in deltas) == text["text"]
    assert part_end["part"] == item_end["item"]["content"][0] == last["output"][0]["content"][0]
    assert last["output"][0] == item_end["item"]
    assert last["output"][0]["content"][0]["text"] == text["text"]
    ids = {event["item_id"] for event in (part, *deltas, text, part_end)} | {item["item"]["id"]}
    assert ids == {last["output"][0]["id"]}
    assert [one for event in deltas for one in event["logprobs"]] == text["logprobs"]
    stamps = ("id", "created_at", "completed_at", "usage", "output")
    for key in whole.keys() - stamps:
        assert last[key] == whole[key], key
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    for one, other in zip(last["output"], whole["output"], strict=True):
        assert one["content"][0]["text"] == other["content"][0]["text"]
        assert len(one["content"][0]["logprobs"]) == len(other["content"][0]["logprobs"])


def test_an_answer_that_is_cut_says_why(ai):
    response = ai.responses.create(**BODY, max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 3
    assert response.completed_at is None


def test_the_request_is_repeated_in_the_answer(ai):
    asked = {
        "instructions": "Be short.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "temperature": 0,
        "top_p": 0.5,
        "user": "me",
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "tool_choice": "none",
        "text": {"format": {"type": "text"}},
    }
    response = ai.responses.create(model=MODEL, input=TEXT, **asked).to_dict()
    assert {key: response[key] for key in asked} == asked


def test_cached_tokens_are_told(ai):
    body = BODY | {"input": "How far is the moon from the sea, my friend? " * 5}
    for _ in range(2):
        usage = ai.responses.create(**body).usage
    in_full_blocks = (usage.input_tokens - 1) // 16 * 16
    assert usage.input_tokens_details.cached_tokens == in_full_blocks > 0
    with ai.responses.stream(**body) as stream:
        assert stream.get_final_response().usage == usage


class Place(BaseModel):
    """The shape that a schema gives to an answer."""

    city: str = Field(max_length=20)
    size: Literal["small", "large"]


SCHEMA = Place.model_json_schema() | {"additionalProperties": False}
SHAPE = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}


def test_the_client_parses_an_answer_that_a_schema_shapes(ai):
    response = ai.responses.parse(model=MODEL, input=TEXT, text_format=Place)
    assert isinstance(response.output_parsed, Place)
    assert response.status == "completed"


@pytest.mark.parametrize("shape", [SHAPE, {"type": "json_object"}])
def test_a_shaped_answer_is_json_whole_and_streamed(server, shape):
    body = BODY | {"text": {"format": shape}, "max_output_tokens": 200}
    whole = post(server, RESPONSES, **body).json()
    assert_shape(Response, whole)
    assert whole["text"]["format"] == shape
    *_, end = events_of(server, **body)
    assert end["response"]["text"]["format"] == shape
    text = whole["output"][0]["content"][0]["text"]
    assert end["response"]["output"][0]["content"][0]["text"] == text
    if whole["status"] == "completed":
        assert isinstance(json.loads(text), dict)
    if shape is SHAPE:
        Place.model_validate_json(text)


# Errors.


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, None, None),
        ({"input": None}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input.[0].content", "missing_required_parameter"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input.[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": None}]}, "input.[0].content", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.[0].content",
            "unsupported_parameter",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "unsupported_parameter"),
        ({"input": "a " * 5000}, "input", "context_length_exceeded"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "context_length_exceeded"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"include": ["message.output_text"]}, "include.[0]", "invalid_value"),
        ({"truncation": "always"}, "truncation", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"text": {"format": {"type": "json"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "invalid_value"),
        ({"text": {"format": SHAPE | {"type": "text"}}}, "text.format", "invalid_value"),
        ({"text": {"format": SHAPE | {"name": "a b"}}}, "text.format.name", "invalid_value"),
        (
            {"text": {"format": SHAPE | {"schema": {"type": "objekt"}}}},
            "text.format.schema",
            "invalid_json_schema",
        ),
        ({"text": {"verbosity": "lowest"}}, "text.verbosity", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage",
         "unknown_parameter"),
        ({"seed": 1}, "seed", "unknown_parameter"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(client, fields, param, code):
    if code is None:  # an empty text is a turn in which nothing is said
        assert client.post(RESPONSES, json=BODY | fields).status_code == 200
    else:
        assert refused(client, RESPONSES, BODY | fields) == (param, code)


def test_a_stream_that_fails_ends_with_a_failed_response(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    fail_after(server, 30)  # a few tokens might be nothing but pieces of characters
    *_, delta, last = events_of(server, model=server.engine.model_name, input="the")
    assert delta["type"] == "response.output_text.delta"
    assert last["type"] == "response.failed"
    assert_no_extras(TypeAdapter(ResponseStreamEvent).validate_python(last, strict=True))
    response = last["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert "made to fail" not in response["error"]["message"]
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"]
    wait_until(lambda: server.sample("inference_requests_total", RESPONSES, "error") == 1)
