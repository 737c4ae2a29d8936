"""Conversations in all three chat APIs: whole, streamed, through the clients, and their errors."""

import threading

import anthropic
import httpx2
import openai
import pytest
from fastapi.testclient import TestClient

from src.api.fields.shared import NoEffect, Refused
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.chat_apis import CHAT_APIS, ChatApi, Turn, last_event
from tests.support.wire import PLAIN_TEMPLATE, fail_after, marked, post

QUESTION = Turn("user", "What is the capital of France?")
ANSWER = "The capital of France is Paris."
ASKED = {"turns": [QUESTION], "max_tokens": 30}


@pytest.fixture(params=CHAT_APIS, ids=str)
def api(request: pytest.FixtureRequest) -> ChatApi:
    return request.param


@pytest.mark.parametrize("max_tokens", [3, 30])
def test_a_stream_equals_the_whole_answer(api, server, max_tokens):
    asked = ASKED | {"max_tokens": max_tokens}
    whole = api.ask(server, **asked)
    assert whole.is_cut == (max_tokens == 3)
    if not whole.is_cut:
        assert whole.text == ANSWER
    assert api.stream(server, **asked) == whole


def test_the_stream_helper_of_the_client_assembles_the_answer(api, server):
    answer = api.stream_by_client(server, api.body(server, **ASKED))
    assert answer == api.ask(server, **ASKED)


def test_the_asynchronous_client_streams(api, server):
    ends = ("stop", "response.completed", "message_stop")
    assert last_event(api, server, api.body(server, **ASKED)) in ends


def test_all_apis_give_the_same_answer_to_a_conversation(server):
    turns = [
        Turn("system", "Answer in a sentence."),
        QUESTION,
        Turn("assistant", ANSWER),
        Turn("user", "And of Italy?"),
    ]
    answers = [api.ask(server, turns=turns, max_tokens=30) for api in CHAT_APIS]
    assert answers == answers[:1] * len(answers)
    assert len({answer.num_prompt_tokens for answer in answers}) == 1


def test_fields_without_effect_change_nothing(api, server):
    values = {
        "user": "me",
        "metadata": {"user_id": "me"},
        "store": True,
        "background": False,
        "truncation": "auto",
        "max_tool_calls": 1,
        "context_management": {"edits": []},
        "client_metadata": {"a": "b"},
        "prompt_cache_options": {"ttl": "30m"},
        "prediction": {"type": "content", "content": "a"},
        "verbosity": "low",
        "mcp_servers": [],
        "user_profile_id": "me",
        "diagnostics": {"previous_message_id": None},
        "stream_options": {"include_obfuscation": True},
        "service_tier": "auto",
        "safety_identifier": "me",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "in_memory",
        "speed": "standard",
        "inference_geo": "eu",
        "cache_control": {"type": "ephemeral"},
    }
    names = marked(api.request, NoEffect)
    assert names
    for name in names:
        assert api.ask(server, **ASKED, **{name: values[name]}).text == ANSWER


def test_null_means_that_a_field_is_left_out(api, server):
    body = api.body(server, **ASKED)
    null = {name: None for name in api.request.model_fields if name not in body}
    assert api.read(post(server, api.path, **body | null).json()).text == ANSWER


def test_each_refused_field_is_refused_by_name(api, server):
    names = marked(api.request, Refused)
    assert names
    for name in names:
        refusal = api.refuse(server, **ASKED, **{name: "x"})
        assert refusal.status == 400
        assert name in (refusal.place, refusal.message.partition(":")[0])


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_unknown_model_is_not_found(api, server, is_stream):
    body = api.body(server, **ASKED) | {"model": "gpt-4", "stream": is_stream}
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as caught:
        api.create_by_client(server, body)
    assert "`gpt-4`" in str(caught.value)
    assert caught.value.request_id


def test_a_model_without_a_chat_template_names_the_setting(api, shared_server):
    refusal = api.refuse(shared_server)
    assert (refusal.status, refusal.place) == (400, api.turns)
    assert "CHAT_TEMPLATE" in refusal.message


def test_an_error_raised_by_the_template_is_passed_on(api, start_server):
    server = start_server(chat_template="{{ raise_exception('Only one turn, please') }}")
    refusal = api.refuse(server)
    assert (refusal.status, refusal.place) == (400, api.turns)
    assert "Only one turn, please" in refusal.message


def test_a_conversation_that_is_too_long_is_refused_by_its_field(api, server):
    refusal = api.refuse(server, turns=[Turn("user", "a " * 5000)])
    assert (refusal.status, refusal.place) == (400, api.turns)


def test_a_client_over_its_rate_limit_is_told_when_to_retry(api, start_server):
    server = start_server(rate_limit_requests=1, chat_template=PLAIN_TEMPLATE)
    assert api.ask(server, max_tokens=1).is_cut
    body = api.body(server, max_tokens=1, stream=True)
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)) as caught:
        api.create_by_client(server, body)
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_requests_get_503_while_the_model_loads(api, tiny_model):
    name = tiny_model().name
    client = TestClient(create_app(create_settings(model_name=str(tiny_model()))))  # not started
    response = client.post(api.path, json=api.body(name))
    assert api.error(response).status == 503
    assert int(response.headers["retry-after"]) >= 1


def test_a_full_queue_gets_503_before_a_stream_begins(api, start_server):
    server = start_server(max_batch_size=1, max_queue_size=0, chat_template=PLAIN_TEMPLATE)
    gate = server.hold()
    asking = threading.Thread(target=api.ask, args=[server], kwargs={"max_tokens": 2})
    asking.start()
    gate.wait()
    response = post(server, api.path, **api.body(server, max_tokens=2), stream=True)
    assert api.error(response).status == 503
    assert int(response.headers["retry-after"]) >= 1
    gate.open()
    asking.join()


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_failing_model_gets_500_without_internal_text(api, start_server, is_stream):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    fail_after(server, 0)
    refusal = api.refuse(server, max_tokens=9, stream=is_stream)
    assert refusal.status == 500
    assert "made to fail" not in refusal.message


def test_a_stream_that_fails_ends_with_an_error(api, start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    fail_after(server, 30)  # the first tokens may be nothing but parts of characters
    response = post(server, api.path, **api.body(server, max_tokens=60), stream=True)
    assert response.status_code == 200
    assert "error" in response.text
    assert "made to fail" not in response.text
    wait_until(lambda: server.sample("inference_sequences_failed_total", "error") == 1)
    wait_until(lambda: server.sample("inference_requests_total", api.path, "error") == 1)


def test_a_client_that_leaves_ends_its_generation(api, start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    gate = server.hold()
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(server.url + api.path, json=api.body(server, max_tokens=50), timeout=0.5)
    gate.open()
    wait_until(lambda: server.sample("inference_sequences_aborted_total", "cancelled") == 1)
