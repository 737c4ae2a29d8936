"""The service as a process: sockets, signals, cancellation, concurrent clients."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from src.engine.request import FinishReason
from tests.conftest import wait_until
from tests.support.servers import Server, Streamed, serve

LONG = {
    "prompt": "Once upon a time",
    "max_length": 1000,
    "temperature": 2,
    "top_p": 1,
    "ignore_eos": True,
}
SHORT = {"prompt": "Once upon a time", "max_length": 2}


def post(server: Server, body: dict, timeout: float = 60) -> httpx2.Response:
    return httpx2.post(server.url + "/generate", json=body, timeout=timeout)


def metric(server: Server, line_start: str) -> float:
    for line in httpx2.get(server.url + "/metrics").text.splitlines():
        if line.startswith(line_start):
            return float(line.rpartition(" ")[2])
    return 0.0


def cancelled(server: Server) -> float:
    return metric(server, 'inference_requests_total{endpoint="/generate",status="cancelled"}')


def disconnect_while_generating(server: Server, body: dict, seconds: float) -> None:
    """Sends a request and closes the connection while it is served."""
    raw = json.dumps(body).encode()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw)
        )
        time.sleep(seconds)


def test_a_disconnect_stops_the_generation(server):
    before = cancelled(server)
    # Sixteen thousand tokens would take minutes; the next request does not wait for them.
    disconnect_while_generating(server, LONG | {"num_return_sequences": 16}, seconds=0.5)
    assert post(server, SHORT).status_code == 200
    wait_until(lambda: cancelled(server) == before + 1)
    wait_until(lambda: metric(server, "inference_sequences_live") == 0)
    first = metric(server, "generated_tokens_total")
    time.sleep(0.3)
    assert metric(server, "generated_tokens_total") == first


def test_health_answers_during_generation_and_large_requests(server):
    async def measure_health() -> list[float]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            work = [
                asyncio.ensure_future(client.post("/generate", json=body))
                for body in (
                    LONG | {"max_length": 300},
                    {"prompt": "word " * 200_000},
                    {"prompt": "a" * 1_000_000},
                )
            ]
            times = []
            while not all(task.done() for task in work):
                started = time.perf_counter()
                response = await client.get("/health")
                assert response.json()["status"] == "healthy"
                times.append(time.perf_counter() - started)
                await asyncio.sleep(0.01)
            statuses = [task.result().status_code for task in work]
        assert statuses == [200, 422, 422]
        return times

    times = asyncio.run(measure_health())
    assert len(times) >= 10  # a blocked event loop would have answered fewer


@pytest.mark.parametrize("max_batch_size", [1, 8])
def test_ten_clients_get_the_same_texts_with_every_batch_size(start_server, max_batch_size):
    server = start_server(max_batch_size=max_batch_size)
    bodies = [
        {"prompt": prompt, "max_length": 20, "temperature": 1.5, "top_p": 1, "seed": seed}
        for seed, prompt in enumerate(["the cat", "on the mat", "hat", "was there", "a"] * 2)
    ]
    alone = [server.post(body).json()["generated"] for body in bodies]
    assert [streamed.generated() for streamed in server.streams(bodies)] == alone
    with ThreadPoolExecutor(10) as pool:
        answers = [response.json()["generated"] for response in pool.map(server.post, bodies)]
    assert answers == alone


def test_a_full_queue_refuses_with_retry_after(start_server):
    server = start_server(max_batch_size=1, max_queue_size=1)
    gate = server.hold()
    tiny = {"prompt": "the", "max_length": 3}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, tiny)
        gate.wait()
        second = pool.submit(server.stream, tiny)
        wait_until(lambda: server.engine.num_live == 2)
        for body in (tiny, tiny | {"stream": True}):
            refused = server.post(body)
            assert refused.status_code == 503
            assert "queue is full" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        assert httpx2.get(server.url + "/health/ready").status_code == 200
        gate.open()
        assert first.result(60).status_code == 200
        assert second.result(60).error is None
    wait_until(lambda: server.engine.num_live == 0)
    assert server.post(tiny).status_code == 200
    assert server.sample("inference_sequences_started_total") == 3


def test_a_request_that_exceeds_the_queue_timeout_is_refused_with_retry_after(start_server):
    server = start_server(max_batch_size=1, queue_timeout_seconds=0.3)
    server.slow_down(0.02)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, {"prompt": "the", "max_length": 100})
        wait_until(lambda: server.sample("inference_sequences_running") == 1)
        refused = server.post({"prompt": "the", "max_length": 1})
        assert refused.status_code == 503
        assert "too long" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert running.result(60).json()["generated"][0]["tokens"] == 100


def test_a_batch_that_exceeds_the_queue_timeout_is_refused_as_a_whole(start_server):
    server = start_server(max_batch_size=1, queue_timeout_seconds=0.3)
    server.slow_down(0.02)
    body = {"prompts": ["the", "cat"], "max_length": 100}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, {"prompt": "the", "max_length": 100})
        wait_until(lambda: server.sample("inference_sequences_running") == 1)
        response = httpx2.post(server.url + "/generate/batch", json=body, timeout=60)
        assert running.result(60).status_code == 200
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1


def test_a_batch_does_not_time_out_behind_its_own_prompts(start_server):
    server = start_server(max_batch_size=1, queue_timeout_seconds=0.3)
    server.slow_down(0.02)
    body = {"prompts": ["the", "cat"], "max_length": 100}
    response = httpx2.post(server.url + "/generate/batch", json=body, timeout=60)
    assert [answer["generated"][0]["tokens"] for answer in response.json()] == [100, 100]


def test_more_sequences_than_batch_and_queue_hold_are_refused_with_422(start_server):
    server = start_server(max_batch_size=2, max_queue_size=1)
    body = {"prompt": "the", "max_length": 2, "num_return_sequences": 4}
    for stream in (False, True):
        response = server.post(body | {"stream": stream})
        assert response.status_code == 422
        (problem,) = response.json()["detail"]
        assert problem["loc"] == ["body", "num_return_sequences"]
        assert "queues, 3" in problem["msg"]
    assert len(server.post(body | {"num_return_sequences": 3}).json()["generated"]) == 3
    batch = {"prompts": ["the"] * 4, "max_length": 2}
    response = httpx2.post(server.url + "/generate/batch", json=batch, timeout=60)
    assert response.json()["detail"][0]["loc"] == ["body", "prompts"]


def test_32_streams_complete_with_their_own_text_while_8_clients_disconnect(server):
    body = {"max_length": 15, "temperature": 1, "return_full_text": False, "stream": True}
    prompts = ("Once upon a time", "The capital of France is", "Hello")
    bodies = [body | {"prompt": prompts[seed % 3], "seed": seed} for seed in range(32)]
    with ThreadPoolExecutor(4) as pool:  # four at a time
        expected = [streamed.generated() for streamed in pool.map(server.stream, bodies)]
    before = cancelled(server)
    complete = [start_curl(server, body) for body in bodies]
    disconnected = [start_curl(server, LONG | {"stream": True, "seed": seed}) for seed in range(8)]
    for curl in disconnected:
        assert curl.stdout.readline().startswith("data: ")
        curl.kill()
        curl.communicate()
    outputs = [curl.communicate(timeout=120)[0] for curl in complete]
    assert [curl.returncode for curl in complete] == [0] * 32
    assert [Streamed.read(output).generated() for output in outputs] == expected
    wait_until(lambda: cancelled(server) == before + 8)
    wait_until(lambda: metric(server, "inference_sequences_live") == 0)


def start_curl(server: Server, body: dict) -> subprocess.Popen[str]:
    command = ["curl", "-sN", server.url + "/generate", "-H", "Content-Type: application/json"]
    return subprocess.Popen([*command, "-d", json.dumps(body)], stdout=subprocess.PIPE, text=True)


def test_concurrent_requests_are_each_answered_with_their_own_text(server):
    prompts = [f"The capital of {country} is" for country in ("France", "Italy", "Peru", "Kenya")]
    bodies = [{"prompt": prompt, "max_length": 8, "temperature": 0} for prompt in prompts * 4]

    async def post_all() -> list[dict]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            responses = await asyncio.gather(
                *(client.post("/generate", json=body) for body in bodies)
            )
        return [response.json() for response in responses]

    answers = asyncio.run(post_all())
    for body, answer in zip(bodies, answers, strict=True):
        assert answer["generated"][0]["text"].startswith(body["prompt"])
        assert answer["generated"] == answers[bodies.index(body)]["generated"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_running_requests_finish_and_exits_with_0(tmp_path, number):
    with serve(tmp_path) as server:
        server.wait_until("/health/ready")
        answers: list[httpx2.Response] = []
        running = threading.Thread(
            target=lambda: answers.append(post(server, LONG | {"max_length": 300, "seed": 5}))
        )
        running.start()
        wait_until(lambda: metric(server, "generated_tokens_total") > 0)
        assert server.stop(number) == 0, server.log
        running.join()
        (answer,) = answers
        assert answer.status_code == 200
        assert answer.json()["generated"][0]["finish_reason"] in tuple(FinishReason)
        assert "Traceback" not in server.log


def test_requests_that_outlast_the_grace_get_503(tmp_path):
    with serve(tmp_path, shutdown_grace_seconds=1) as server:
        server.wait_until("/health/ready")
        outcomes: list[object] = []

        def request_minutes_of_work() -> None:
            try:
                outcomes.append(post(server, LONG | {"num_return_sequences": 16}))
            except httpx2.TransportError as error:
                outcomes.append(error)

        requesting = threading.Thread(target=request_minutes_of_work)
        requesting.start()
        wait_until(lambda: metric(server, "generated_tokens_total") > 0)
        assert server.stop() == 0, server.log
        requesting.join()
        (answer,) = outcomes
        assert answer.status_code == 503
        assert answer.json() == {"detail": "The server is shutting down."}
        assert "x-request-id" in answer.headers
        assert "Traceback" not in server.log


def test_a_stream_that_outlasts_the_grace_ends_with_an_error_event(tmp_path):
    with serve(tmp_path, shutdown_grace_seconds=1) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until("/health/ready")
        running = pool.submit(server.stream, LONG | {"num_return_sequences": 16})
        wait_until(lambda: metric(server, "generated_tokens_total") > 0)
        assert server.stop() == 0, server.log
        assert running.result(60).error == {"message": "The server is shutting down.", "code": 503}
        assert "Traceback" not in server.log


def test_a_second_signal_ends_it_at_once(tmp_path):
    with serve(tmp_path, shutdown_grace_seconds=3600) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until("/health/ready")
        running = pool.submit(post, server, LONG | {"num_return_sequences": 16}, 300)
        wait_until(lambda: metric(server, "generated_tokens_total") > 0)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "new requests are refused" in server.log)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        assert running.exception(60) or running.result().status_code == 503


def test_a_late_request_on_an_open_connection_is_refused_not_lost(tmp_path):
    with serve(tmp_path) as server:
        server.wait_until("/health/ready")
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 ")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "new connections are refused" in server.log)
            head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: 2\r\n\r\n{}")
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" in answer.lower()
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_repeated_sighup_cuts_no_stream(tmp_path, number):
    """A closing terminal may send it twice; one more signal is then the first to stop."""
    with serve(tmp_path) as server:
        server.wait_until("/health/ready")
        body = LONG | {"max_length": 300, "stream": True}
        with httpx2.stream("POST", server.url + "/generate", json=body, timeout=60) as stream:
            events = stream.iter_text()
            received = next(events)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "new requests are refused" in server.log)
            server.process.send_signal(signal.SIGHUP)
            server.process.send_signal(number)
            assert post(server, SHORT).status_code == 503
            streamed = Streamed.read(received + "".join(events))
        assert streamed.error is None
        assert streamed.lasts[0]["tokens"] == 300
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log


@pytest.mark.parametrize("num_workers", [1, 2])
def test_sighup_is_ignored_under_nohup(tmp_path, num_workers):
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the process
    try:
        with serve(tmp_path, workers=num_workers) as server:
            server.wait_until("/health/ready")
            server.process.send_signal(signal.SIGHUP)
            time.sleep(1)
            assert post(server, SHORT).status_code in (200, 503)  # a worker may still load
            assert server.stop() == 0
            assert "new requests are refused" in server.log
            assert "SIGHUP" not in server.log
    finally:
        signal.signal(signal.SIGHUP, hangup)


def test_a_process_paused_by_sigstop_continues(tmp_path):
    with serve(tmp_path, hang_timeout_seconds=2) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until("/health/ready")
        running = pool.submit(post, server, LONG | {"max_length": 500})
        wait_until(lambda: metric(server, "generated_tokens_total") > 0)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        server.process.send_signal(signal.SIGCONT)
        assert running.result(60).status_code == 200
        assert post(server, SHORT).status_code == 200


def test_production_logs_json_with_ids_and_without_prompts(tmp_path):
    with serve(tmp_path, environment="production") as server:
        server.wait_until("/health/ready")
        headers = {"X-Request-ID": "find-me"}
        body = {"prompt": "my secret is", "max_length": 3}
        answer = httpx2.post(server.url + "/generate", json=body, headers=headers)
        assert answer.status_code == 200
        server.stop()
        events = [json.loads(line) for line in server.log.splitlines()]
    (access,) = [event for event in events if event.get("request_id") == "find-me"]
    assert (
        access
        | {
            "event": "request",
            "method": "POST",
            "endpoint": "/generate",
            "status": 200,
            "client": "127.0.0.1",
            "level": "info",
        }
        == access
    )
    assert access["duration_ms"] > 0
    assert "my secret" not in server.log


def test_log_level_warning_is_quiet(tmp_path):
    with serve(tmp_path, environment="production", log_level="warning") as server:
        server.wait_until("/health/ready")
        assert post(server, SHORT).status_code == 200
        server.stop()
        assert server.log == ""


def test_the_log_proposes_a_request(server):
    assert f"try it: curl -s {server.url.replace('127.0.0.1', 'localhost')}/generate" in server.log


def hint(server: Server, name: str) -> str:
    (line,) = re.findall(rf"{name}: (.*?)\s*(?:\[src|$)", server.log, re.MULTILINE)
    return line


@pytest.mark.parametrize("name", ["try it", "chat"])
def test_the_proposed_commands_work(server, name):
    command = hint(server, name)
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["model"] == "storyteller"


def test_the_log_names_the_documentation_and_how_to_stop(server):
    assert httpx2.get(hint(server, "documentation")).status_code == 200
    assert hint(server, "to stop the service") == "Ctrl+C"


def test_no_chat_is_proposed_without_a_chat_template(tmp_path, tiny_model):
    with serve(tmp_path, model_name=tiny_model(), auth="api_key", api_keys="{}") as server:
        server.wait_until("/health/ready")
        wait_until(lambda: "to stop the service" in server.log)
        assert "chat: curl" not in server.log
        assert '"Authorization: Bearer $API_KEY"' in hint(server, "try it")


def test_uvicorn_on_the_command_line_serves_the_same_app(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ("-m", "uvicorn", "src.main:app", "--host", "127.0.0.1", "--port", str(port))
    with serve(tmp_path, command, port=port) as server:
        server.wait_until("/health/ready")
        assert post(server, SHORT).status_code == 200


def test_workers_share_the_port_and_aggregate_their_metrics(tmp_path):
    with serve(tmp_path, workers=2) as server:
        server.wait_until("/health/ready")
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        for _ in range(8):  # a new connection each time, so both workers get some
            assert post(server, SHORT).status_code == 200
        counted = 'inference_requests_total{endpoint="/generate",status="success"}'
        assert metric(server, counted) == 8
        assert "rate limits are counted in each worker" in server.log
        assert server.stop() == 0


def test_reload_serves(tmp_path):
    with serve(tmp_path, reload="true") as server:
        server.wait_until("/health/ready")
        assert post(server, SHORT).status_code == 200
        assert server.stop() == 0
