"""Several workers behind one port: keys, limits of each worker, replacement."""

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.conftest import wait_until
from tests.faults.asking import connect
from tests.support.keys import bearer, create_key, id_of, run_keys
from tests.support.servers import Server, Streamed, serve, workers_of

BODY = {"prompt": "the", "max_length": 1}


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Pauses a process."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass
class Workers:
    """A service of two workers with API keys."""

    server: Server
    file: Path

    def __post_init__(self) -> None:
        self.pids = workers_of(self.server)
        assert len(self.pids) == 2

    @contextmanager
    def alone(self, pid: int) -> Iterator[None]:
        """Pauses the other worker, so that this one gets all connections."""
        (other,) = set(self.pids) - {pid}
        with paused(other):
            yield

    def status(self, key: str) -> int:
        return self.server.post(BODY, headers=bearer(key)).status_code


@pytest.fixture
def workers(tmp_path, tiny_model) -> Iterator[Workers]:
    file = tmp_path / "keys.json"
    admin = create_key(file, "admin", "--scopes", "admin")
    settings = {"auth": "api_key", "api_keys_file": file, "model_name": tiny_model()}
    with serve(tmp_path, workers=2, **settings) as server:
        server.headers = bearer(admin)
        server.wait_until("/health/ready")
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        yield Workers(server, file)
        assert server.stop() == 0


def test_keys_change_in_each_worker_and_each_limits_its_own_concurrent_requests(workers):
    key = create_key(workers.file, "new", "--concurrent", "1")
    first, second = workers.pids
    for pid in workers.pids:
        with workers.alone(pid):
            wait_until(lambda: workers.status(key) == 200)
    host, port = workers.server.url.removeprefix("http://").split(":")
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with ExitStack() as stack:
        with workers.alone(first):  # it gets the connection
            unfinished = stack.enter_context(
                socket.create_connection((host, int(port)), timeout=60)
            )
            unfinished.sendall(head.encode())
            wait_until(lambda: workers.status(key) == 429)
        with workers.alone(second):
            assert workers.status(key) == 200
    assert "concurrent requests (RATE_LIMIT_CONCURRENT" in workers.server.log
    assert "counted in each worker: 2 workers accept up to 2 times" in workers.server.log
    assert run_keys(workers.file, "revoke", id_of(key)).returncode == 0
    for pid in workers.pids:
        with workers.alone(pid):
            wait_until(lambda: workers.status(key) == 401)


def are_all_draining(server: Server) -> bool:
    return server.log.count("new requests are refused") == 2


@pytest.mark.parametrize("to_all", [False, True])
def test_workers_finish_running_requests_and_refuse_new_ones(tmp_path, to_all):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        pids = workers_of(server)
        body = BODY | {"max_length": 400, "ignore_eos": True, "stream": True}
        body |= {"num_return_sequences": 16}  # makes it last
        with httpx2.stream("POST", server.url + "/generate", json=body, timeout=60) as stream:
            events = stream.iter_text()
            received = next(events)
            for pid in pids if to_all else ():
                os.kill(pid, signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: are_all_draining(server), seconds=10)
            refused = server.post(BODY)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert server.get("/health/ready").status_code == 503
            received += "".join(events)
        streamed = Streamed.read(received)
        assert streamed.error is None
        assert [streamed.lasts[index]["tokens"] for index in range(16)] == [400] * 16
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_to_the_supervisor_ends_the_workers_at_once(tmp_path, number):
    with serve(tmp_path, workers=2, shutdown_grace_seconds=120, timeout_seconds=600) as server:
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        pids = workers_of(server)
        body = BODY | {"max_length": 400, "ignore_eos": True, "stream": True}
        body |= {"num_return_sequences": 16}
        with httpx2.stream("POST", server.url + "/generate", json=body, timeout=60) as stream:
            events = stream.iter_text()
            next(events)
            server.process.send_signal(number)
            wait_until(lambda: are_all_draining(server), seconds=10)
            began = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(30) == 0, server.log
            assert time.monotonic() - began < 5
            with pytest.raises(httpx2.TransportError):
                list(events)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert "Traceback" not in server.log


def test_connection_limits_hold_in_each_worker(tmp_path):
    with serve(tmp_path, workers=2, receive_timeout_seconds=1, max_header_bytes=1024) as server:
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        pids = workers_of(server)
        for pid in pids:
            (other,) = set(pids) - {pid}
            with paused(other):
                head = b"GET / HTTP/1.1\r\nHost: "
                for sent, status in ((head, b" 408 "), (head + b"x" * 2048, b" 431 ")):
                    with connect(server) as connection:
                        connection.sendall(sent)
                        assert status in connection.recv(65536)
        assert server.stop() == 0


def test_a_worker_that_dies_during_a_health_check_is_replaced_at_once(tmp_path):
    """The supervisor waits HANG_TIMEOUT_SECONDS for the answer of a paused worker."""
    with serve(tmp_path, workers=2, hang_timeout_seconds=600) as server:
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        first, _ = workers_of(server)
        os.kill(first, signal.SIGSTOP)
        time.sleep(2)  # two health checks a second
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.log.count("ready to serve") == 3, seconds=60)
        assert server.stop() == 0


def num_ready(server: Server) -> int:
    return server.log.count("ready to serve")


def post_until_ready(server: Server, number: int) -> list[int]:
    """Posts on new connections until `number` workers have become ready since the start."""
    statuses = []
    deadline = time.monotonic() + 120
    while num_ready(server) < number:
        assert time.monotonic() < deadline, server.log
        statuses.append(server.post(BODY).status_code)
    return statuses


def test_a_replacement_accepts_no_connection_before_its_model_is_loaded(tmp_path):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        first, second = workers_of(server)
        os.kill(first, signal.SIGKILL)
        statuses = post_until_ready(server, 3)
        assert set(statuses) == {200}
        assert len(statuses) > 10
        wait_until(lambda: len(workers_of(server)) == 2)
        with paused(second):  # the new one gets all connections
            wait_until(lambda: server.post(BODY).status_code == 200)
        assert server.stop() == 0


def test_without_a_ready_worker_new_ones_answer_while_they_load(tmp_path):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        answers = set()
        while num_ready(server) < 3:
            answers.add(tuple(server.get(f"/health/{of}").status_code for of in ("live", "ready")))
        assert (200, 503) in answers
        assert server.stop() == 0


def test_sighup_replaces_all_workers_and_cuts_no_stream(tmp_path):
    settings = {"max_batch_size": 4, "shutdown_grace_seconds": 100, "timeout_seconds": 100}
    with serve(tmp_path, workers=2, **settings) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        first = set(workers_of(server))
        body = BODY | {"max_length": 400, "ignore_eos": True, "stream": True}
        with ExitStack() as stack:
            streams = [
                stack.enter_context(
                    httpx2.stream("POST", server.url + "/generate", json=body, timeout=100)
                ).iter_text()
                for _ in range(6)
            ]
            received = [next(events) for events in streams]
            for pid in (server.process.pid, *first):  # as a closing terminal does
                os.kill(pid, signal.SIGHUP)
            assert set(post_until_ready(server, 3)) <= {200}
            for beginning, events in zip(received, streams, strict=True):
                streamed = Streamed.read(beginning + "".join(events))
                assert streamed.error is None
                assert streamed.lasts[0]["tokens"] == 400
        assert set(post_until_ready(server, 4)) <= {200}
        wait_until(lambda: not first & set(workers_of(server)), seconds=60)
        assert server.log.count("new connections are refused") == 2
        assert len(workers_of(server)) == 2
        assert server.post(BODY).status_code == 200
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_old_workers_stay_if_new_ones_cannot_start(tmp_path, tiny_model):
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    with serve(tmp_path, workers=2, model_name=model) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        first = workers_of(server)
        (model / "config.json").unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old ones stay" in server.log, seconds=120)
        assert workers_of(server) == first
        assert server.post(BODY).status_code == 200
        assert server.stop() == 0


def test_sigttin_adds_a_worker_and_sigttou_removes_one(tmp_path):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        server.process.send_signal(signal.SIGTTIN)
        wait_until(lambda: num_ready(server) == 3, seconds=120)
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(workers_of(server)) == 2, seconds=60)
        assert server.post(BODY).status_code == 200
        assert server.stop() == 0


def reasons(server: Server, number: int) -> list[str]:
    """Returns the logged reasons of deaths, once there are `number`."""
    pattern = re.compile(r"a worker died and is replaced.* reason=('[^']*'|\S+)")
    wait_until(lambda: len(pattern.findall(server.log)) >= number, seconds=120)
    return [reason.strip("'") for reason in pattern.findall(server.log)]


def test_service_goes_on_while_a_replacement_cannot_start(tmp_path, tiny_model):
    model, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    shutil.copytree(tiny_model(), model)
    with serve(tmp_path, workers=2, model_name=model) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        first, second = workers_of(server)
        model.rename(elsewhere)
        os.kill(first, signal.SIGKILL)
        assert reasons(server, 2)[:2] == ["SIGKILL", "status 3"]
        assert second in workers_of(server)
        assert server.post(BODY).status_code == 200
        elsewhere.rename(model)
        assert set(post_until_ready(server, 3)) <= {200}
        assert len(workers_of(server)) == 2
        model.rename(elsewhere)
        num_deaths = len(reasons(server, 2))
        os.kill(second, signal.SIGKILL)
        assert reasons(server, num_deaths + 2)[num_deaths:] == ["SIGKILL", "status 3"]
        assert server.stop() == 0  # a replacement that cannot start is no failure of the service


def test_restarts_are_delayed_if_replacements_die_early(tmp_path):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        dying, other = workers_of(server)
        seconds = []
        for _ in range(4):
            began = time.monotonic()
            os.kill(dying, signal.SIGKILL)
            wait_until(lambda old=dying: set(workers_of(server)) - {old, other}, seconds=60)
            (dying,) = set(workers_of(server)) - {dying, other}
            seconds.append(time.monotonic() - began)
            assert server.post(BODY).status_code == 200
        assert all(took >= delay for took, delay in zip(seconds, (0, 1, 2, 4), strict=True)), (
            seconds
        )
        assert reasons(server, 4) == ["SIGKILL"] * 4
        assert re.findall(r"restart_in=(\d+)", server.log) == ["0", "1", "2", "4"]
        assert server.stop() == 0


def test_a_worker_that_retires_by_sigttou_holds_up_no_replacement(tmp_path):
    settings = {"max_batch_size": 16, "shutdown_grace_seconds": 200, "timeout_seconds": 200}
    body = BODY | {"max_length": 400, "ignore_eos": True, "stream": True}
    body |= {"num_return_sequences": 16}
    with serve(tmp_path, workers=2, **settings) as server, ExitStack() as stack:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        pids = workers_of(server)
        streams = {}
        for pid, other in (pids, reversed(pids)):
            with paused(other):  # this one gets the connection
                events = stack.enter_context(
                    httpx2.stream("POST", server.url + "/generate", json=body, timeout=200)
                ).iter_text()
                streams[pid] = (next(events), events)
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: "new connections are refused" in server.log)
        (retiring,) = map(int, re.findall(r"a worker retires.* worker=(\d+)", server.log))
        (other,) = set(pids) - {retiring}
        with paused(retiring):
            os.kill(other, signal.SIGKILL)
            wait_until(lambda: num_ready(server) == 3, seconds=120)
            assert server.post(BODY).status_code == 200
            assert retiring in workers_of(server)
        beginning, events = streams[retiring]
        streamed = Streamed.read(beginning + "".join(events))
        assert streamed.error is None
        assert len(streamed.lasts) == 16
        wait_until(lambda: len(workers_of(server)) == 1)
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: "the last worker stays" in server.log)
        assert server.post(BODY).status_code == 200
        assert server.stop() == 0


def test_sigterm_ends_a_replacement_of_workers(tmp_path):
    with serve(tmp_path, workers=2) as server:
        wait_until(lambda: num_ready(server) == 2, seconds=120)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers_of(server)) == 3, seconds=60)
        pids = workers_of(server)
        assert server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert "Traceback" not in server.log
