"""Streams of `/generate` over a real socket: they say what the whole answer says, as it is made."""

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest
import torch

from src.text.detokenizer import REPLACEMENT
from tests.conftest import wait_until
from tests.support.servers import LocalServer, Streamed, parse_events
from tests.support.tiny_models import create_tokenizer

WILD = {"prompt": "the cat", "max_length": 40, "temperature": 1.5, "top_p": 1}
LONG = WILD | {"max_length": 120, "seed": 1}
SHORT = {"prompt": "the cat", "max_length": 5, "seed": 2}
TEXT = "Grüße 👩‍🚀, 日本語, naïve €5 한국어 ok. "


def token_ids(text: str) -> list[int]:
    return create_tokenizer()(text)["input_ids"]


@pytest.fixture
def reciter(start_server, reciting_model) -> LocalServer:
    """Continues the prompt "a", which is one token, with TEXT."""
    return start_server(model_name=str(reciting_model(TEXT)))


def assert_same(generated: list[dict], expected: list[dict]) -> None:
    """The same but for the last digits of log-probabilities, which depend on the batch."""
    for one, other in zip(generated, expected, strict=True):
        assert {**one, "logprobs": None} == {**other, "logprobs": None}
        assert_same_logprobs(one.get("logprobs", []), other.get("logprobs", []))


def assert_same_logprobs(positions: list[dict], expected: list[dict]) -> None:
    for one, other in zip(positions, expected, strict=True):
        assert (one["id"], one["token"]) == (other["id"], other["token"])
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
        assert_same_logprobs(one.get("top", []), other.get("top", []))


def requests_with(server: LocalServer, status: str) -> float:
    return server.sample("inference_requests_total", "/generate", status)


def ended(server: LocalServer, how: str, reason: str) -> float:
    return server.sample(f"inference_sequences_{how}_total", reason)


def test_a_stream_is_in_the_promised_shape(shared_server):
    body = {"prompt": "the cat", "max_length": 4, "temperature": 0, "stream": True}
    response = shared_server.post(body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert "x-request-id" in response.headers
    events = parse_events(response.text)
    assert events[-1] == ("message", "[DONE]")
    *deltas, last = (json.loads(data) for _, data in events[:-1])
    assert deltas
    for delta in deltas:
        assert delta == {"index": 0, "text": delta["text"], "finish_reason": None}
    counts = {"tokens": 4, "prompt_tokens": len(token_ids("the cat"))}
    assert last == {"index": 0, "text": last["text"], "finish_reason": "length"} | counts


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"return_full_text": False},
        {"num_return_sequences": 3},
        {"temperature": 0, "repetition_penalty": 1.3},
        {"stop": ["a", "e"], "num_return_sequences": 3},
        {"stop": ["a", "e"], "min_length": 20, "num_return_sequences": 3},
        {"logprobs": 2, "prompt_logprobs": 1, "num_return_sequences": 2},
        {"max_length": 1, "logprobs": 0},
    ],
)
def test_a_stream_equals_the_whole_answer(shared_server, fields):
    body = WILD | {"seed": 20} | fields
    whole = shared_server.post(body).json()
    streamed = shared_server.stream(body)
    assert_same(streamed.generated(), whole["generated"])
    assert {one["prompt_tokens"] for one in streamed.lasts.values()} == {whole["prompt_tokens"]}
    found = [one for one in streamed.deltas if "prompt_logprobs" in one]
    assert len(found) == ("prompt_logprobs" in fields)
    for one in found:
        assert one["index"] == 0
        assert_same_logprobs(one["prompt_logprobs"], whole["prompt_logprobs"])


def test_a_stream_of_invalid_utf8_equals_the_whole_answer(shared_server):
    body = WILD | {"num_return_sequences": 16, "max_length": 100, "seed": 7}
    whole = shared_server.post(body).json()["generated"]
    assert shared_server.stream(body).generated() == whole
    assert sum(REPLACEMENT in one["text"] for one in whole) > 8


def test_no_event_splits_a_character_and_a_text_ends_with_a_whole_one(reciter):
    tokens = token_ids(TEXT)
    assert len(tokens) > len(TEXT)
    lengths = range(1, len(tokens) + 1)
    bodies = [{"prompt": "a", "max_length": max_length} for max_length in lengths]
    for max_length, streamed in zip(lengths, reciter.streams(bodies), strict=True):
        expected = create_tokenizer().decode(tokens[:max_length]).rstrip(REPLACEMENT)
        assert streamed.texts == {0: "a" + expected}
        assert streamed.lasts[0]["tokens"] == max_length
        assert not any(REPLACEMENT in delta["text"] for delta in streamed.deltas)


@pytest.mark.parametrize("return_full_text", [True, False])
def test_nothing_of_a_stop_text_is_streamed(reciter, return_full_text):
    recited = TEXT * 2
    stops = [recited[at : at + length] for at in range(0, len(TEXT), 2) for length in (1, 2, 5)]
    common = {"prompt": "a", "max_length": 120, "return_full_text": return_full_text}
    streams = reciter.streams([common | {"stop": ["\0", stop]} for stop in stops])
    for stop, streamed in zip(stops, streams, strict=True):
        expected = recited[: recited.index(stop)]
        assert streamed.texts == {0: "a" + expected if return_full_text else expected}
        last = streamed.lasts[0]
        assert last["finish_reason"] == "stop"
        assert last["tokens"] == len(token_ids(expected + stop))


def test_a_stop_text_before_min_length_is_text(reciter):
    min_length = len(token_ids(TEXT + "Gr"))
    body = {"prompt": "a", "max_length": 120, "stop": "üß", "min_length": min_length}
    streamed = reciter.stream(body | {"return_full_text": False})
    assert streamed.texts == {0: TEXT + "Gr"}
    assert streamed.lasts[0]["finish_reason"] == "stop"


def test_a_text_that_only_begins_like_a_stop_text_is_given_out_at_the_end(reciter):
    max_length = len(token_ids("Grüße"))
    body = {"prompt": "a", "max_length": max_length, "stop": "üße?"}
    streamed = reciter.stream(body)
    assert streamed.texts == {0: "aGrüße"}
    assert streamed.lasts[0]["finish_reason"] == "length"


def test_each_token_of_a_stream_has_its_logprobs(reciter):
    streamed = reciter.stream({"prompt": "a", "max_length": 30, "logprobs": 2, "stop": "日本"})
    spoken = token_ids(TEXT[: TEXT.index("日本") + 2])
    assert [one["id"] for one in streamed.logprobs()] == spoken
    assert streamed.lasts[0]["tokens"] == len(spoken)
    assert {len(one["top"]) for one in streamed.logprobs()} == {2}


def test_sequences_of_a_stream_take_turns(shared_server):
    streamed = shared_server.stream(LONG | {"num_return_sequences": 3, "logprobs": 0})
    order = [delta["index"] for delta in streamed.deltas]
    assert set(order[:3]) == {0, 1, 2}
    assert all(set(order[at : at + 5]) == {0, 1, 2} for at in range(len(order) - 10))


@contextmanager
def streaming(server: LocalServer, body: dict) -> Iterator[Iterator[str]]:
    """The data of a stream's events, one after the other, while they are made."""
    with httpx2.stream(
        "POST", server.url + "/generate", json=body | {"stream": True}, timeout=60
    ) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        yield (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_the_first_event_arrives_while_the_later_ones_are_still_to_be_made(start_server):
    server = start_server()
    gate = server.hold()
    gate.permit(1)
    with streaming(server, WILD | {"seed": 3, "logprobs": 0}) as events:
        assert json.loads(next(events))["finish_reason"] is None
        gate.let(1)
        assert json.loads(next(events))["finish_reason"] is None
        assert server.engine.num_live == 1
        gate.open()
        assert list(events)[-1] == "[DONE]"


def test_curl_prints_events_at_once(start_server):
    server = start_server()
    gate = server.hold()
    body = json.dumps(WILD | {"seed": 3, "logprobs": 0, "stream": True})
    command = ["curl", "-sN", server.url + "/generate", "-H", "Content-Type: application/json"]
    with subprocess.Popen([*command, "-d", body], stdout=subprocess.PIPE, text=True) as curl:
        gate.let(2)
        assert curl.stdout.readline().startswith("data: ")
        assert curl.stdout.readline() == "\n"
        assert curl.stdout.readline().startswith("data: ")
        assert server.engine.num_live == 1
        gate.open()
        rest = curl.stdout.read()
    assert curl.returncode == 0
    assert rest.endswith("\n\ndata: [DONE]\n\n")


def refusal(server: LocalServer, **fields: object) -> httpx2.Response:
    """The answer to a stream that is refused: it has a status, and is no stream."""
    response = server.post(SHORT | {"stream": True} | fields)
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"detail"}
    return response


def test_an_invalid_request_is_refused_before_the_stream(shared_server):
    for fields in ({"max_length": 0}, {"prompt": ""}, {"max_length": 500}, {"min_length": 6}):
        response = refusal(shared_server, **fields)
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", *fields]
    (problem,) = refusal(shared_server, num_return_sequences=16, stream="yes").json()["detail"]
    assert problem["loc"] == ["body", "stream"]


def test_a_batch_cannot_be_streamed(shared_server):
    body = {"prompts": ["the"], "stream": True}
    response = httpx2.post(shared_server.url + "/generate/batch", json=body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "stream"]


def test_a_stream_over_the_rate_limit_gets_429(start_server):
    server = start_server(rate_limit_requests=1)
    assert server.stream(SHORT).error is None
    response = refusal(server)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    wait_until(lambda: requests_with(server, "rate_limited") == 1)


def test_a_stream_whose_model_fails_on_the_prompt_gets_500(start_server):
    server = start_server()

    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail")

    server.break_model(fail)
    response = refusal(server)
    assert response.status_code == 500
    assert "made to fail" not in response.text
    wait_until(lambda: requests_with(server, "error") == 1)


def test_a_stream_that_has_no_token_when_the_time_is_up_gets_504(start_server):
    server = start_server(timeout_seconds=0.3)
    gate = server.hold()
    assert refusal(server).status_code == 504
    gate.open()
    wait_until(lambda: ended(server, "aborted", "timeout") == 1)


def test_a_stream_that_waited_too_long_gets_503(start_server):
    server = start_server(max_batch_size=1, queue_timeout_seconds=0.5)
    server.slow_down(0.05)
    with streaming(server, LONG) as events:
        next(events)
        response = refusal(server)
        assert response.status_code == 503
        assert "too long" in response.json()["detail"]
        assert int(response.headers["retry-after"]) >= 1
    assert ended(server, "failed", "expired") == 1


def fail_after(server: LocalServer, num_steps: int, error: BaseException) -> None:
    """Lets the model make so many steps, then raise."""
    steps = iter(range(num_steps))

    def forward(real: Callable[..., object], *args: object, **kwargs: object) -> object:
        if next(steps, None) is None:
            raise error
        return real(*args, **kwargs)

    server.break_model(forward)


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_a_model_that_raises_at_a_token_ends_the_stream_with_an_error(start_server, num_sequences):
    server = start_server()
    whole = server.post(WILD | {"seed": 3}).json()["generated"][0]["text"]
    fail_after(server, 20, RuntimeError("made to fail"))
    streamed = server.stream(WILD | {"seed": 3, "num_return_sequences": num_sequences})
    assert streamed.live == set(range(num_sequences))
    assert whole.startswith(streamed.texts[0])
    assert len(streamed.texts[0]) > len("the cat")
    assert streamed.error["code"] == 500
    assert streamed.error.keys() == {"message", "code"}
    assert "made to fail" not in streamed.error["message"]
    wait_until(lambda: requests_with(server, "error") == 1)
    wait_until(lambda: requests_with(server, "success") == 1)
    wait_until(lambda: server.sample("inference_sequences_live") == 0)
    assert ended(server, "failed", "error") >= 1


def test_no_memory_for_a_step_ends_the_stream_with_an_error(start_server):
    server = start_server()
    fail_after(server, 5, torch.OutOfMemoryError("made to fail"))
    assert server.stream(WILD | {"logprobs": 0}).error["code"] == 500


def test_the_time_limit_ends_a_stream_in_order(start_server):
    server = start_server(timeout_seconds=1)
    gate = server.hold()
    streaming = asyncio.to_thread(server.stream, LONG | {"logprobs": 0})

    async def let_some_steps_pass() -> Streamed:
        task = asyncio.ensure_future(streaming)
        await asyncio.to_thread(gate.let, 3)
        return await task

    streamed = asyncio.run(let_some_steps_pass())
    assert len(streamed.logprobs()) == 3
    assert streamed.error is None
    assert (streamed.lasts[0]["finish_reason"], streamed.lasts[0]["tokens"]) == ("length", 3)
    wait_until(lambda: requests_with(server, "success") == 1)
    assert requests_with(server, "error") == 0
    gate.open()
    wait_until(lambda: ended(server, "aborted", "timeout") == 1)


def test_the_time_limit_of_a_stream_counts_its_tokenization(start_server, monkeypatch):
    server = start_server(timeout_seconds=4)
    server.slow_down(0.3)
    in_thread = asyncio.to_thread

    async def slow(function: Callable[..., object], *args: object, **options: object) -> object:
        await asyncio.sleep(1.5)
        return await in_thread(function, *args, **options)

    body = WILD | {"max_length": 12}
    monkeypatch.setattr(asyncio, "to_thread", slow)
    (whole,) = server.post(body).json()["generated"]
    (streamed,) = server.stream(body).generated()
    for one in (whole, streamed):
        assert one["finish_reason"] == "length"
        assert one["tokens"] < 12


def test_an_unforeseen_error_ends_the_stream_without_details(start_server, capfd):
    server = start_server()
    gate = server.hold()
    gate.permit(1)
    with streaming(server, LONG | {"logprobs": 0}) as events:
        next(events)
        server.engine._lifecycle.codec = None
        gate.open()
        error = json.loads(list(events)[-1])["error"]
    assert error == {"message": "Internal server error.", "code": 500}
    wait_until(lambda: requests_with(server, "error") == 1)
    assert "unhandled error in a stream" in capfd.readouterr().err


def start_request(
    server: LocalServer, body: dict, receive_buffer: int | None = None
) -> socket.socket:
    """Sends a request; closing the socket is how its client leaves."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    connection.settimeout(60)
    raw = json.dumps({"stream": True} | body).encode()
    connection.sendall(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw)
    )
    return connection


def state(server: LocalServer) -> tuple[float, ...]:
    """Sequences that run, wait and live."""
    samples = server.samples()
    names = ("running", "waiting", "live")
    return tuple(samples.get((f"inference_sequences_{name}",), 0.0) for name in names)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_during_decode_frees_the_places(start_server, stream):
    server = start_server()
    alone = server.stream(LONG).generated()
    server.slow_down(0.01)
    others: list[Streamed] = []
    other = threading.Thread(target=lambda: others.append(server.stream(LONG)))
    other.start()
    body = LONG | {"num_return_sequences": 4, "seed": 9, "logprobs": 0, "stream": stream}
    with start_request(server, body) as leaving:
        wait_until(lambda: state(server) == (5, 0, 5))
        if stream:
            assert b"data: " in leaving.recv(65536)
    wait_until(lambda: ended(server, "aborted", "cancelled") == 4)
    other.join()
    assert others[0].generated() == alone
    wait_until(lambda: requests_with(server, "cancelled") == 1)
    assert state(server) == (0, 0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_during_prefill_frees_the_place(start_server, stream):
    server = start_server(max_batch_size=1, max_num_batched_tokens=4)
    gate = server.hold()
    with start_request(server, {"prompt": " the" * 100, "max_length": 5, "stream": stream}):
        gate.let(3)
        wait_until(lambda: state(server) == (1, 0, 1))
    wait_until(lambda: requests_with(server, "cancelled") == 1)
    gate.permit(1)
    wait_until(lambda: state(server) == (0, 0, 0))
    assert ended(server, "aborted", "cancelled") == 1
    assert server.sample("generated_tokens_total") == 0
    gate.open()
    assert server.stream(SHORT).error is None


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_the_queue_ends_the_request(start_server, stream):
    server = start_server(max_batch_size=1)
    alone = server.stream(LONG).generated()
    before = server.sample("prompt_tokens_total")
    gate = server.hold()
    others: list[Streamed] = []
    other = threading.Thread(target=lambda: others.append(server.stream(LONG)))
    other.start()
    gate.let(2)
    with start_request(server, LONG | {"num_return_sequences": 2, "stream": stream}):
        wait_until(lambda: server.engine.num_live == 3)
        gate.let(2)
        wait_until(lambda: state(server) == (1, 2, 3))
    wait_until(lambda: requests_with(server, "cancelled") == 1)
    gate.let(1)
    wait_until(lambda: state(server) == (1, 0, 1))
    assert ended(server, "aborted", "cancelled") == 2
    gate.open()
    other.join()
    assert others[0].generated() == alone
    assert server.sample("prompt_tokens_total") - before == len(token_ids("the cat"))


def test_no_text_looks_like_the_end_of_a_line(start_server):
    server = start_server()
    prompt = "a\x85b\u2028c\u2029d"
    response = server.post({"prompt": prompt, "max_length": 1, "stream": True})
    lines = response.text.splitlines()
    texts = [json.loads(line[6:])["text"] for line in lines if line.startswith("data: {")]
    assert texts[0].startswith(prompt)


def test_a_reader_that_stops_reading_is_broken_off(start_server):
    server = start_server(send_buffer=4096, send_timeout_seconds=1)
    server.slow_down(0.05)
    body = LONG | {"num_return_sequences": 16, "logprobs": 20}
    with start_request(server, body, receive_buffer=4096) as reader:
        wait_until(lambda: server.engine.num_live == 16)
        wait_until(lambda: ended(server, "aborted", "cancelled") > 0)
        wait_until(lambda: state(server) == (0, 0, 0))
        wait_until(lambda: requests_with(server, "cancelled") == 1)
        assert server.stream(SHORT).error is None
        received = b""
        while piece := reader.recv(65536):
            received += piece
    assert b"[DONE]" not in received
    assert len(received) < 500_000


def test_a_reader_that_is_slow_gets_it_all(start_server):
    server = start_server(send_buffer=4096, send_timeout_seconds=30)
    body = LONG | {"num_return_sequences": 4, "logprobs": 20}
    whole = server.stream(body)
    with start_request(server, body, receive_buffer=4096) as reader:
        time.sleep(1)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += reader.recv(2048)
    data = b"".join(received.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]).decode()
    assert_same(Streamed.read(data).generated(), whole.generated())


@pytest.mark.parametrize("client", ["leaves before the head", "never takes the head"])
def test_a_client_that_never_gets_its_first_event_frees_its_places(start_server, client):
    server = start_server(send_timeout_seconds=0.3)
    body = json.dumps(LONG | {"num_return_sequences": 3, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive() -> dict[str, object]:
        """The body; then nothing while the first token is awaited, and then the client's leave."""
        if messages:
            return messages.pop()
        if server.sample("generated_tokens_total") and client == "leaves before the head":
            return {"type": "http.disconnect"}
        return await asyncio.Future()

    async def send(message: dict[str, object]) -> None:
        sent.append(message)
        await asyncio.Future()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }

    async def ask() -> None:
        async with asyncio.timeout(60):
            await server.app(scope, receive, send)
        # In the event loop of the sequences, where their end is counted.
        await asyncio.to_thread(wait_until, lambda: server.engine.num_live == 0)
        await asyncio.to_thread(wait_until, lambda: not server.engine._dispatcher._live)

    server.slow_down(0.02)
    asyncio.run(ask())
    assert len(sent) <= 1
    assert ended(server, "aborted", "cancelled") == 3
    wait_until(lambda: requests_with(server, "cancelled") == 1)
