"""Requests of a caller at the same time, counted by several processes in one Redis."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis

from src.limits.concurrency import LEASE_SECONDS
from tests.conftest import wait_until
from tests.limits.test_storage import is_up
from tests.support.redis_server import Redis, Way
from tests.support.servers import Gate, LocalServer, Server, Streamed, serve

BODY = {"prompt": "the", "max_length": 1}
KEY = "LIMITS:concurrent/127.0.0.1"


@pytest.fixture
def start(start_server, storage):
    def start(most: int = 1) -> LocalServer:
        return start_server(rate_limit_storage=storage.url, rate_limit_concurrent=most)

    return start


def leases(storage: Redis) -> dict[str, float]:
    """The times at which they end, by their ids."""
    with redis.Redis(port=storage.port, decode_responses=True) as client:
        return dict(client.zrange(KEY, 0, -1, withscores=True))


@contextmanager
def running(server: LocalServer, number: int = 1) -> Iterator[Gate]:
    """So many requests run as long as the context lasts, and are answered then."""
    gate = server.hold()
    with ThreadPoolExecutor(number) as pool:
        asked = [pool.submit(server.post, BODY | {"stream": True}) for _ in range(number)]
        wait_until(lambda: server.engine.num_live == number)
        yield gate
        gate.open()
        for one in asked:
            assert Streamed.read(one.result().text).error is None


def test_processes_share_the_count_of_what_runs(start, storage):
    one, other = start(most=2), start(most=2)
    with running(one), running(other):
        for server in (one, other):
            refused = server.post(BODY)
            assert refused.status_code == 429
            assert refused.headers["ratelimit-policy"] == '"concurrent";q=2'
        assert len(leases(storage)) == 2
    wait_until(lambda: not leases(storage))
    assert [server.post(BODY).status_code for server in (one, other)] == [200, 200]


def test_what_runs_long_is_counted_as_long_as_it_runs(start, storage):
    one, other = start(), start()
    with running(one):
        (first,) = leases(storage).items()
        wait_until(lambda: leases(storage)[first[0]] > first[1], seconds=LEASE_SECONDS)
        assert other.post(BODY).status_code == 429
    wait_until(lambda: other.post(BODY).status_code == 200)


def test_what_runs_is_counted_again_when_redis_has_lost_all(start, storage):
    one, other = start(), start()
    with running(one):
        storage.stop()
        storage.start()
        assert other.post(BODY).status_code in (200, 429)  # nobody knows yet
        wait_until(lambda: other.post(BODY).status_code == 429, seconds=LEASE_SECONDS)
    wait_until(lambda: other.post(BODY).status_code == 200)


def begin_request(server: Server) -> socket.socket:
    """A request whose body does not come."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: 100\r\n\r\n".encode())
    return connection


def test_requests_of_a_process_that_was_killed_do_not_count_for_ever(
    start,
    storage,
    tmp_path,
):
    settings = {"rate_limit_storage": storage.url, "rate_limit_concurrent": 1}
    other = start()
    with serve(tmp_path, **settings) as server:
        server.wait_until("/health/ready")
        with begin_request(server):
            wait_until(lambda: len(leases(storage)) == 1)
            server.process.kill()
            server.process.wait()
            killed = time.monotonic()
            assert other.post(BODY).status_code == 429
            wait_until(lambda: other.post(BODY).status_code == 200, seconds=LEASE_SECONDS + 2)
            assert time.monotonic() - killed > LEASE_SECONDS / 2


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_the_policy_answers_while_redis_does_not(
    start_replica,
    way: Way,
    policy,
    status_code,
):
    client = start_replica(
        rate_limit_storage=way.url, rate_limit_storage_failure=policy, rate_limit_concurrent=1
    )
    way.delay, way.asked = None, b""
    began = time.monotonic()
    answer = client.post("/generate", json=BODY)
    assert answer.status_code == status_code
    if policy == "closed":
        assert time.monotonic() - began < 1  # tests/faults say how much less
        assert answer.headers["retry-after"] == "1"
        assert b"requests_" not in way.asked, "it is the first to be asked"
    assert b"concurrent/" in way.asked
    way.delay = 0
    wait_until(lambda: is_up(client))
