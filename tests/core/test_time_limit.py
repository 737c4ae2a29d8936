"""TIMEOUT_SECONDS: the tokens so far are the answer; without any it is 504."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx2
import pytest

from tests.conftest import wait_until
from tests.support.servers import LocalServer, parse_events
from tests.support.wire import PLAIN_TEMPLATE

SECONDS = 3
NUM_TOKENS = 3
MESSAGES = [{"role": "user", "content": "the cat"}]
LENGTH = ("length", NUM_TOKENS)


def read_generate(body: dict) -> tuple[str, int]:
    (sequence,) = body["generated"]
    return sequence["finish_reason"], sequence["tokens"]


def read_choice(body: dict) -> tuple[str, int]:
    (choice,) = body["choices"]
    return choice["finish_reason"], body["usage"]["completion_tokens"]


def read_response(body: dict) -> tuple[str, int]:
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    return body["status"], body["usage"]["output_tokens"]


def read_message(body: dict) -> tuple[str, int]:
    return body["stop_reason"], body["usage"]["output_tokens"]


# Path: fields, reader of the finish reason and the number of tokens, expected values.
ROUTES: dict[str, tuple[dict, Callable[[dict], tuple[str, int]], tuple[str, int]]] = {
    "/generate": ({"prompt": "the cat", "max_length": 100}, read_generate, LENGTH),
    "/v1/completions": ({"prompt": "the cat", "max_tokens": 100}, read_choice, LENGTH),
    "/v1/chat/completions": ({"messages": MESSAGES}, read_choice, LENGTH),
    "/v1/responses": ({"input": "the cat"}, read_response, ("incomplete", NUM_TOKENS)),
    "/v1/messages": (
        {"messages": MESSAGES, "max_tokens": 10**6},
        read_message,
        ("max_tokens", NUM_TOKENS),
    ),
}
LAST_DATA = {
    "/generate": '"finish_reason":"length"',
    "/v1/completions": '"finish_reason":"length"',
    "/v1/chat/completions": '"finish_reason":"length"',
    "/v1/responses": '"type":"response.incomplete"',
    "/v1/messages": '"stop_reason":"max_tokens"',
}


class Asked(NamedTuple):
    """A server and its answer."""

    server: LocalServer
    response: httpx2.Response


def ask(server: LocalServer, path: str, num_steps: int, **fields: object) -> httpx2.Response:
    """Returns the answer of a model that stops after `num_steps` steps."""
    gate = server.hold()
    body = ROUTES[path][0] | fields
    if path != "/generate":
        body["model"] = server.engine.model_name

    async def run() -> httpx2.Response:
        asking = asyncio.to_thread(httpx2.post, server.url + path, json=body, timeout=60)
        answer = asyncio.ensure_future(asking)
        await asyncio.to_thread(gate.wait)
        if num_steps:
            await asyncio.to_thread(gate.let, num_steps)
        return await answer

    response = asyncio.run(run())
    gate.open()
    return response


@pytest.fixture
def ask_all(start_server) -> Callable[..., dict[str, Asked]]:
    """Returns a function that asks all routes at once, each on a server of its own."""

    def ask_all(num_steps: int, **fields: object) -> dict[str, Asked]:
        servers = {
            path: start_server(
                timeout_seconds=SECONDS, chat_template=PLAIN_TEMPLATE, num_speculative_tokens=0
            )
            for path in ROUTES
        }
        with ThreadPoolExecutor(len(servers)) as pool:
            answers = pool.map(
                lambda path: ask(servers[path], path, num_steps, **fields), ROUTES, timeout=60
            )
            return {
                path: Asked(servers[path], answer)
                for path, answer in zip(ROUTES, answers, strict=True)
            }

    return ask_all


def test_a_whole_answer_has_the_tokens_so_far(ask_all):
    for path, (server, response) in ask_all(NUM_TOKENS).items():
        assert response.status_code == 200, response.text
        _, read, expected = ROUTES[path]
        assert read(response.json()) == expected, path
        wait_until(lambda: server.sample("inference_sequences_aborted_total", "timeout") == 1)  # noqa: B023
        assert server.sample("generated_tokens_total") == NUM_TOKENS


def test_a_stream_ends_with_its_usual_last_event(ask_all):
    for path, (_, response) in ask_all(NUM_TOKENS, stream=True).items():
        assert response.status_code == 200, response.text
        *_, last = parse_events(response.text)
        assert last[0] in ("message", "message_stop", "response.incomplete")
        assert LAST_DATA[path] in response.text.replace(": ", ":")
        assert "error" not in [name for name, _ in parse_events(response.text)]


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_token_the_answer_is_504_and_names_the_setting(ask_all, stream):
    for path, (_, response) in ask_all(0, stream=stream).items():
        assert response.status_code == 504, path
        assert "TIMEOUT_SECONDS" in json.dumps(response.json())


def test_sequences_without_a_token_are_empty_beside_one_that_has_some(start_server):
    server = start_server(timeout_seconds=SECONDS, max_batch_size=1, num_speculative_tokens=0)
    for num_choices, expected in ((2, [0, NUM_TOKENS]), (1, [NUM_TOKENS])):
        fields = {"n": num_choices, "best_of": 2, "logprobs": 0}
        choices = ask(server, "/v1/completions", NUM_TOKENS, **fields).json()["choices"]
        assert [choice["finish_reason"] for choice in choices] == ["length"] * num_choices
        logprobs = [choice["logprobs"] or {"tokens": []} for choice in choices]
        assert sorted(len(item["tokens"]) for item in logprobs) == expected


def test_an_answer_without_requested_prompt_logprobs_is_504(start_server):
    server = start_server(timeout_seconds=SECONDS, max_batch_size=1, num_speculative_tokens=0)
    fields = {"prompt": ["the cat", "the mat"], "echo": True, "logprobs": 1}
    assert ask(server, "/v1/completions", NUM_TOKENS, **fields).status_code == 504
