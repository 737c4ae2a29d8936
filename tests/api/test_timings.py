"""`timings` of answers that ask for them, and the header Server-Timing of all whole answers."""

import json
import re
import time

import pytest
from fastapi.testclient import TestClient

from tests.support.servers import LocalServer, parse_events
from tests.support.wire import post

TEXT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a story."}]
NUM_TOKENS = 6
MODEL = {"model": "storyteller"}
ROUTES = {
    "/generate": {"prompt": TEXT, "max_length": NUM_TOKENS},
    "/v1/completions": MODEL | {"prompt": TEXT, "max_tokens": NUM_TOKENS},
    "/v1/chat/completions": MODEL | {"messages": MESSAGES, "max_tokens": NUM_TOKENS},
    "/v1/responses": MODEL | {"input": TEXT, "max_output_tokens": NUM_TOKENS},
    "/v1/messages": MODEL | {"messages": MESSAGES, "max_tokens": NUM_TOKENS},
}
HEADER = re.compile(r"queue;dur=(\d+\.\d+), prefill;dur=(\d+\.\d+), decode;dur=(\d+\.\d+)")
TIMES = ("queue_ms", "prompt_ms", "predicted_ms")


def check_timings(timings: dict, wall_ms: float) -> None:
    assert all(timings[name] >= 0 for name in TIMES)
    assert timings["predicted_ms"] > 0
    assert sum(timings[name] for name in TIMES) <= wall_ms
    assert timings["predicted_n"] == NUM_TOKENS
    assert timings["prompt_n"] + timings["cache_n"] > 0
    assert 0 <= timings["draft_n_accepted"] <= timings["draft_n"]
    speed = 1000 * (NUM_TOKENS - 1) / timings["predicted_ms"]
    assert timings["predicted_per_second"] == pytest.approx(speed, rel=0.01)


@pytest.mark.parametrize("path", ROUTES)
def test_an_answer_has_the_timings_of_its_header(client: TestClient, path):
    started_at = time.monotonic()
    response = client.post(path, json=ROUTES[path] | {"timings": True})
    wall_ms = 1000 * (time.monotonic() - started_at)
    timings = response.json()["timings"]
    check_timings(timings, wall_ms)
    durations = HEADER.fullmatch(response.headers["server-timing"]).groups()
    assert [float(text) for text in durations] == [timings[name] for name in TIMES]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_other_answers_have_none(client: TestClient, path, stream):
    for fields in ({}, {"timings": False}, {"timings": None}):
        response = client.post(path, json=ROUTES[path] | fields | {"stream": stream})
        assert response.status_code == 200
        assert '"timings"' not in response.text
        assert ("server-timing" in response.headers) != stream


@pytest.mark.parametrize("path", ROUTES)
def test_a_stream_has_them_in_the_event_with_the_usage(client: TestClient, path):
    started_at = time.monotonic()
    response = client.post(path, json=ROUTES[path] | {"timings": True, "stream": True})
    wall_ms = 1000 * (time.monotonic() - started_at)
    assert "server-timing" not in response.headers
    events = [json.loads(data) for _, data in parse_events(response.text) if data != "[DONE]"]
    events = [event.get("response", event) for event in events]
    (last,) = [event for event in events if "timings" in event]
    check_timings(last["timings"], wall_ms)
    if path == "/generate":
        assert last["tokens"] == NUM_TOKENS
    elif "choices" not in last:
        assert last["usage"]["output_tokens"] == NUM_TOKENS


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("has_usage", [False, True])
def test_the_last_chunk_has_timings_and_the_usage_if_it_is_asked_for(client, path, has_usage):
    options = {"stream_options": {"include_usage": has_usage}}
    body = ROUTES[path] | options | {"timings": True, "stream": True, "n": 2}
    *_, (_, data), done = parse_events(client.post(path, json=body).text)
    chunk = json.loads(data)
    assert done[1] == "[DONE]"
    assert chunk["choices"] == []
    assert chunk["timings"]["predicted_n"] == 2 * NUM_TOKENS
    if has_usage:
        assert chunk["usage"]["completion_tokens"] == 2 * NUM_TOKENS
    else:
        assert "usage" not in chunk


def test_a_stream_of_several_sequences_has_them_once(client: TestClient):
    body = ROUTES["/generate"] | {"num_return_sequences": 3, "timings": True, "stream": True}
    *_, (_, data), _ = parse_events(client.post("/generate", json=body).text)
    last = json.loads(data)
    assert last["finish_reason"] == "length"
    assert last["timings"]["predicted_n"] == 3 * NUM_TOKENS
    assert client.post("/generate", json=body).text.count('"timings"') == 1


def test_a_batch_has_the_header_alone(client: TestClient):
    body = {"prompts": [TEXT, TEXT], "max_length": NUM_TOKENS}
    assert HEADER.fullmatch(client.post("/generate/batch", json=body).headers["server-timing"])
    refused = client.post("/generate/batch", json=body | {"timings": True})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "timings"]


def test_counts_are_those_of_the_usage(client: TestClient):
    prompt = "In a village by the sea there lived an old clockmaker. " * 4
    body = MODEL | {"prompt": [prompt, prompt], "n": 2, "max_tokens": NUM_TOKENS, "timings": True}
    for _ in range(2):  # the second one finds the prefix in the cache
        answer = client.post("/v1/completions", json=body).json()
        timings, usage = answer["timings"], answer["usage"]
        assert timings["cache_n"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert timings["cache_n"] + timings["prompt_n"] == usage["prompt_tokens"]
        assert timings["predicted_n"] == usage["completion_tokens"] == 4 * NUM_TOKENS
        assert timings["prompt_per_second"] is None  # there are two prompts
    assert timings["cache_n"] > 0


def test_drafts_are_those_that_the_metrics_count(start_server, reciting_model):
    server: LocalServer = start_server(model_name=str(reciting_model("the cat sat on the mat ")))
    body = {"prompt": "the", "max_length": 60, "temperature": 0, "timings": True}
    timings = post(server, "/generate", **body).json()["timings"]
    assert timings["draft_n"] == server.sample("inference_drafted_tokens_total") > 0
    assert timings["draft_n_accepted"] == server.sample("inference_accepted_tokens_total") > 0


def test_an_answer_without_a_second_token_has_no_speed(client: TestClient):
    body = ROUTES["/v1/completions"] | {"max_tokens": 1, "timings": True}
    timings = client.post("/v1/completions", json=body).json()["timings"]
    assert (timings["predicted_n"], timings["predicted_ms"]) == (1, 0)
    assert timings["predicted_per_second"] is None


def test_errors_have_no_header(client: TestClient):
    response = client.post("/generate", json={"prompt": TEXT, "max_length": 0})
    assert response.status_code == 422
    assert "server-timing" not in response.headers
