"""Running requests of a caller, counted by several processes in one Redis."""

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
from tests.support.redis_server import Redis, RedisProxy
from tests.support.servers import Gate, LocalServer, Server, Streamed, serve

BODY = {"prompt": "the", "max_length": 1}
KEY = "LIMITS:concurrent/127.0.0.1"


@pytest.fixture
def start(start_server, storage):
    def start(max_running: int = 1) -> LocalServer:
        return start_server(rate_limit_storage=storage.url, rate_limit_concurrent=max_running)

    return start


def leases(storage: Redis) -> dict[str, float]:
    """Returns the end of each lease by its id."""
    with redis.Redis(port=storage.port, decode_responses=True) as client:
        return dict(client.zrange(KEY, 0, -1, withscores=True))


@contextmanager
def running(server: LocalServer, number: int = 1) -> Iterator[Gate]:
    """Keeps a number of requests running until the context ends."""
    gate = server.hold()
    with ThreadPoolExecutor(number) as pool:
        answers = [pool.submit(server.post, BODY | {"stream": True}) for _ in range(number)]
        wait_until(lambda: server.engine.num_live == number)
        yield gate
        gate.open()
        for answer in answers:
            assert Streamed.read(answer.result().text).error is None


def test_processes_share_the_count_of_what_runs(start, storage):
    first, second = start(max_running=2), start(max_running=2)
    with running(first), running(second):
        for server in (first, second):
            refused = server.post(BODY)
            assert refused.status_code == 429
            assert refused.headers["ratelimit-policy"] == '"concurrent";q=2'
        assert len(leases(storage)) == 2
    wait_until(lambda: not leases(storage))
    assert [server.post(BODY).status_code for server in (first, second)] == [200, 200]


def test_a_lease_lasts_as_long_as_its_request(start, storage):
    first, second = start(), start()
    with running(first):
        ((lease_id, end),) = leases(storage).items()
        wait_until(lambda: leases(storage)[lease_id] > end, seconds=LEASE_SECONDS)
        assert second.post(BODY).status_code == 429
    wait_until(lambda: second.post(BODY).status_code == 200)


def test_running_requests_are_counted_again_after_redis_lost_its_data(start, storage):
    first, second = start(), start()
    with running(first):
        storage.stop()
        storage.start()
        assert second.post(BODY).status_code in (200, 429)  # until the leases are renewed
        wait_until(lambda: second.post(BODY).status_code == 429, seconds=LEASE_SECONDS)
    wait_until(lambda: second.post(BODY).status_code == 200)


def begin_request(server: Server) -> socket.socket:
    """Sends the head of a request without its body."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: 100\r\n\r\n".encode())
    return connection


def test_leases_of_a_killed_process_end(
    start,
    storage,
    tmp_path,
):
    settings = {"rate_limit_storage": storage.url, "rate_limit_concurrent": 1}
    second = start()
    with serve(tmp_path, **settings) as server:
        server.wait_until("/health/ready")
        with begin_request(server):
            wait_until(lambda: len(leases(storage)) == 1)
            server.process.kill()
            server.process.wait()
            killed = time.monotonic()
            assert second.post(BODY).status_code == 429
            wait_until(lambda: second.post(BODY).status_code == 200, seconds=LEASE_SECONDS + 2)
            assert time.monotonic() - killed > LEASE_SECONDS / 2


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_the_failure_policy_holds_for_running_requests(
    start_replica,
    redis_proxy: RedisProxy,
    policy,
    status_code,
):
    client = start_replica(
        rate_limit_storage=redis_proxy.url,
        rate_limit_storage_failure=policy,
        rate_limit_concurrent=1,
    )
    redis_proxy.delay, redis_proxy.commands = None, b""
    began = time.monotonic()
    answer = client.post("/generate", json=BODY)
    assert answer.status_code == status_code
    if policy == "closed":
        assert time.monotonic() - began < 1  # tests/faults say how much less
        assert answer.headers["retry-after"] == "1"
        assert b"/requests/" not in redis_proxy.commands, "running requests are counted first"
    assert b"concurrent/" in redis_proxy.commands
    redis_proxy.delay = 0
    wait_until(lambda: is_up(client))
