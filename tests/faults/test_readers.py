"""Clients that leave, that read slowly or not at all, and that come in crowds."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import psutil
import pytest

from src.text.detokenizer import REPLACEMENT
from tests.conftest import wait_until
from tests.faults.asking import HEAD, TEXTS, connect, name_of, post, told, told_error
from tests.faults.table import measured
from tests.support.servers import LocalServer, parse_events
from tests.support.tiny_models import create_tokenizer

FREE_SECONDS = 1
EMOJI = "the cat 👩‍🚀 sat 🇩🇪 on ❤️ it. "
MUCH = {"n": 8, "max_tokens": 120, "logprobs": 20}
MOST_BYTES = 500_000
"""Bytes of an unread answer of some megabytes that the system buffers at most."""


@contextmanager
def asking(server: LocalServer, **fields: object) -> Iterator[socket.socket]:
    """A client that has sent its request; behind this it leaves."""
    body = json.dumps({"model": name_of(server), "prompt": "the"} | fields)
    with connect(server) as connection:
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        yield connection


def running_and_waiting(server: LocalServer) -> tuple[float, float]:
    states = ("running", "waiting")
    return tuple(server.sample(f"inference_sequences_{state}") for state in states)


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave(start, stream):
    long = {"max_tokens": 100, "stream": stream}
    prompt = {"prompt": "the cat sat on the mat " * 10, "max_tokens": 1, "stream": stream}
    with start(max_batch_size=1, max_num_batched_tokens=1) as server:
        server.slow_down(0.02)
        found = {}
        for case, fields in {"in its answer": long, "in its prompt": prompt}.items():
            before = server.sample("generated_tokens_total")
            with asking(server, **fields):
                wait_until(lambda: running_and_waiting(server) == (1, 0))
                if case == "in its answer":
                    wait_until(lambda now=before: server.sample("generated_tokens_total") > now)
            wait_until(lambda: server.engine.num_live == 0, FREE_SECONDS)
            found[case] = "its place is free within a second"
        assert (
            server.sample("generated_tokens_total") == before
        )  # no token where the client left during prefill
        with asking(server, **long):
            wait_until(lambda: running_and_waiting(server) == (1, 0))
            with asking(server, **long):
                wait_until(lambda: running_and_waiting(server) == (1, 1))
            wait_until(lambda: server.engine.num_live == 1, FREE_SECONDS)
        found["queued"] = "it is never served"
        wait_until(lambda: server.sample("inference_sequences_aborted_total", "cancelled") == 4)
    measured(40, found)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_stops_reading(start, stream):
    with start(send_buffer=4096, send_timeout_seconds=1) as server:
        with asking(server, **MUCH, stream=stream) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wait_until(lambda: server.engine.num_live == 8)
            wait_until(lambda: server.engine.num_live == 0)
            wait_until(lambda: not established(server))
            assert post(server).status_code == 200
            received = read_all(connection)
        assert b" 200 OK\r\n" in received
        assert len(received) < MOST_BYTES
        assert b"[DONE]" not in received
    measured(41, {"after SEND_TIMEOUT_SECONDS": "the connection is broken off, its place is free"})


def established(server: LocalServer) -> list[object]:
    """The server's ends of connections."""
    port = int(server.url.rpartition(":")[2])
    connections = psutil.Process().net_connections()
    return [one for one in connections if (one.status, one.laddr.port) == ("ESTABLISHED", port)]


def read_all(connection: socket.socket) -> bytes:
    """Reads the rest of an answer that was broken off."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def test_emoji_in_pieces(start, reciting_model):
    with start(model=reciting_model(EMOJI), chat_template=None) as server:
        for max_tokens in range(1, 50, 2):
            fields = {"prompt": "a", "max_tokens": max_tokens, "temperature": 0}
            whole = post(server, **fields).json()["choices"][0]["text"]
            *events, _ = parse_events(post(server, **fields, stream=True).text)
            pieces = [json.loads(data)["choices"][0]["text"] for _, data in events]
            assert "".join(pieces) == whole
            assert REPLACEMENT not in whole
        assert EMOJI in whole
    measured(42, {"each": "200: whole characters alone, streamed as not"})


def test_a_model_that_raises_in_a_stream(start):
    with start() as server:
        steps = iter(range(5))

        def fail_once(real: Callable[..., object], *args: object, **kwargs: object) -> object:
            if next(steps, None) == 4:
                raise RuntimeError("made to fail at /etc/passwd")
            return real(*args, **kwargs)

        server.break_model(fail_once)
        a = create_tokenizer().convert_tokens_to_ids("a")  # whole characters, so that they are sent
        response = post(server, max_tokens=120, stream=True, logit_bias={str(a): 100})
        *chunks, (event, data) = parse_events(response.text)
        assert chunks
        assert event == "message"
        assert "passwd" not in data
    measured(43, {"the last event": told_error(500, json.loads(data)["error"])})


def overloaded(response: httpx2.Response) -> str:
    assert int(response.headers["retry-after"]) >= 1
    return f"{told(response)} `Retry-After`"


def test_a_queue_that_is_full(start):
    with start(max_batch_size=1, max_queue_size=3, queue_timeout_seconds=30) as server:
        server.slow_down(0.1)
        with ThreadPoolExecutor(5) as pool:
            asked = [pool.submit(post, server, max_tokens=15)]
            wait_until(lambda: running_and_waiting(server) == (1, 0))
            asked += [pool.submit(post, server, max_tokens=20) for _ in range(3)]
            wait_until(lambda: server.sample("inference_sequences_finished_total", "length") == 1)
            asked.append(pool.submit(post, server, max_tokens=20))
            wait_until(lambda: running_and_waiting(server) == (1, 3))
            refused = post(server)
            assert int(refused.headers["retry-after"]) >= 2  # the one before them took 1.5 s
            assert {one.result().status_code for one in asked} == {200}
        found = {"full": overloaded(refused)}
    with start(max_batch_size=1, queue_timeout_seconds=0.2) as server:
        server.slow_down(0.02)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(post, server, TEXTS, max_tokens=50)
            wait_until(lambda: server.sample("inference_sequences_running") == 1)
            found["waited too long"] = overloaded(post(server))
            assert running.result().status_code == 200
    measured(44, found)
