"""Failures in a real process: answers, effects on other requests, and exit statuses."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

from tests.conftest import assert_started_are_accounted_for, wait_until
from tests.faults.asking import name_of, post, send, told
from tests.faults.table import measured
from tests.support.faulty_server import NO_NUMBER, POISON
from tests.support.servers import Server, Streamed, serve
from tests.support.tiny_models import create_tokenizer

BANS = {str(create_tokenizer().convert_tokens_to_ids(text)): -100 for text in (POISON, NO_NUMBER)}
GOOD = {"max_length": 15, "temperature": 1.0, "top_p": 1, "logit_bias": BANS}
LONG = GOOD | {"prompt": "secret words", "max_length": 100}
SECRET = "tell nobody"
GOOD_BODIES = [
    GOOD | {"prompt": prompt, "seed": seed}
    for seed, prompt in enumerate(("the", "the cat", "a mat", "on", "hat", "was"))
]


@pytest.fixture
def start_faulty_server(tiny_model, tmp_path) -> Callable[..., AbstractContextManager[Server]]:
    """Returns a function that starts the faulty server; files in `tmp_path` are its faults."""
    command = ("-m", "tests.support.faulty_server", str(tmp_path))
    return lambda **settings: serve(tmp_path, command, model_name=tiny_model(), **settings)


def state(server: Server) -> tuple[float, float]:
    samples = server.samples()
    names = ("inference_sequences_running", "inference_sequences_waiting")
    return tuple(samples.get((name,), 0.0) for name in names)


def test_an_engine_that_dies_or_hangs(start_faulty_server, tmp_path):
    found = {}
    for fault, settings in {"dies": {}, "hangs": {"hang_timeout_seconds": 2}}.items():
        with (
            start_faulty_server(max_batch_size=2, faulty_step_seconds=0.1, **settings) as server,
            ThreadPoolExecutor(4) as pool,
        ):
            found[fault] = end_engine(server, pool, tmp_path / fault)
    measured(46, found)


def end_engine(server: Server, pool: ThreadPoolExecutor, fault: Path) -> str:
    """Ends a server's engine while it serves some, and returns what it says then."""
    server.wait_until("/health/ready")
    name = name_of(server)
    running = [pool.submit(server.stream, LONG), pool.submit(server.post, LONG)]
    wait_until(lambda: state(server) == (2, 0))
    waiting = [pool.submit(server.post, LONG | {"stream": stream}) for stream in (True, False)]
    wait_until(lambda: state(server) == (2, 2))
    fault.touch()
    streamed: Streamed = running[0].result(60)
    responses = [future.result(60) for future in (running[1], *waiting)]
    probes = ("/health", "/health/live", "/health/ready")
    last_words = [httpx2.get(server.url + path) for path in probes]
    responses.append(server.post(LONG))
    refused = post(server, model=name)
    samples = server.samples()
    status = server.process.wait(60)
    fault.unlink()

    assert streamed.error["code"] == 503
    assert streamed.texts[0].startswith(LONG["prompt"])
    assert {response.status_code for response in (*responses, *last_words)} == {503}
    assert all("engine has ended" in response.json()["detail"] for response in responses)
    assert {response.json()["status"] for response in last_words} == {"unhealthy"}
    assert samples["inference_requests_total", "/generate", "error"] == 5
    assert samples["inference_sequences_failed_total", "error"] == 4
    assert samples["inference_ready",] == 0
    assert_started_are_accounted_for(samples)
    assert "Traceback" in server.log if fault.name == "dies" else "hangs" in server.log
    assert "secret words" not in server.log
    return f"{told(refused)} Live and ready: 503; the process ends with status {status}"


@dataclass
class Faulty:
    """A server that can be made to fail.

    Args:
        folder: of its faults.
        while_loading: its answers before its model was loaded, by what was asked.
        alone: its answers to GOOD_BODIES, each asked alone.
    """

    server: Server
    folder: Path
    while_loading: dict[str, httpx2.Response]
    alone: list[dict]


def ask_while_loading(server: Server, model: str) -> dict[str, httpx2.Response]:
    probes = {name: f"/health/{name}" for name in ("live", "ready")}
    answers = {name: httpx2.get(server.url + path) for name, path in probes.items()}
    return answers | {"a request": post(server, model=model)}


@pytest.fixture(scope="module")
def faulty(tiny_model, tmp_path_factory) -> Iterator[Faulty]:
    """A server that lives on."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "loading").touch()
    with serve(
        folder,
        ("-m", "tests.support.faulty_server", str(folder)),
        model_name=tiny_model(),
        faulty_step_seconds=0.01,
    ) as server:
        server.wait_until("/health/live")
        while_loading = ask_while_loading(server, tiny_model().name)
        (folder / "loading").unlink()
        server.wait_until("/health/ready")
        alone = [server.post(body).json() for body in GOOD_BODIES]
        yield Faulty(server, folder, while_loading, alone)
        wait_until(lambda: server.sample("inference_sequences_live") == 0)
        assert server.process.poll() is None


def post_all(server: Server, bodies: list[dict]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.post, bodies))


@pytest.mark.parametrize("fault", [POISON, NO_NUMBER])
def test_a_request_that_makes_the_model_fail_fails_alone(faulty, fault):
    server, alone = faulty.server, faulty.alone
    failed_before = server.sample("inference_sequences_failed_total", "error")
    bad = [GOOD | {"prompt": f"bad words{fault}"}, GOOD | {"prompt": fault, "stream": True}]
    responses = post_all(server, [*GOOD_BODIES[:3], bad[0], *GOOD_BODIES[3:], bad[1]])
    failed = [responses.pop(-1), responses.pop(3)]
    assert [response.json() for response in responses] == alone
    for response in failed:
        assert response.status_code == 500
        assert response.json() == {
            "detail": "The model failed on this request; the cause is in the log."
        }
    assert server.sample("inference_sequences_failed_total", "error") == failed_before + 2
    assert httpx2.get(server.url + "/health").status_code == 200
    assert "bad words" not in server.log


def test_a_stream_whose_own_token_makes_the_model_fail_ends_with_an_error_and_alone(faulty):
    server, alone = faulty.server, faulty.alone
    forced = {"logit_bias": {next(iter(BANS)): 100}}
    bad, good = server.streams([GOOD | forced | {"prompt": "the"}, GOOD_BODIES[0]])
    assert good.generated() == alone[0]["generated"]
    assert bad.error["code"] == 500
    assert bad.texts[0] == "the" + POISON


def test_no_memory_for_a_step(faulty):
    server = faulty.server
    name = name_of(server)
    fits = faulty.folder / "fits"
    fits.write_text("4")
    try:
        too_large = GOOD | {"prompt": "xxxxxx"}
        *responses, failed = post_all(server, [*GOOD_BODIES, too_large])
        culprit = post(server, model=name, prompt="xxxxxx")
    finally:
        fits.unlink()
    assert failed.status_code == 500
    assert [response.json() for response in responses] == faulty.alone
    measured(45, {"the culprit": told(culprit), "the others": "200"})


def test_a_model_that_still_loads(faulty):
    answers = dict(faulty.while_loading)
    refused = answers.pop("a request")
    assert {answer.json()["status"] for answer in answers.values()} == {"loading"}
    assert int(refused.headers["retry-after"]) >= 1
    found = {name: str(answer.status_code) for name, answer in answers.items()}
    measured(47, found | {"a request": f"{told(refused)} `Retry-After`"})


@pytest.fixture
def stopping(start_faulty_server) -> Iterator[Server]:
    with start_faulty_server(faulty_step_seconds=0.03) as server:
        server.wait_until("/health/ready")
        yield server


def test_a_signal_in_the_middle_of_streams(stopping):
    name = name_of(stopping)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stopping.streams, [LONG | {"seed": seed} for seed in range(8)])
        wait_until(lambda: stopping.sample("generated_tokens_total") > 0)
        stopping.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "new requests are refused" in stopping.log)
        probes = {one: httpx2.get(f"{stopping.url}/health/{one}") for one in ("live", "ready")}
        refused = post(stopping, model=name)
        assert stopping.sample("inference_ready") == 0
        assert not running.done()
        streams = running.result(60)
    status = stopping.process.wait(60)
    assert {answer.json()["status"] for answer in probes.values()} == {"stopping"}
    assert int(refused.headers["retry-after"]) >= 1
    assert {streamed.error for streamed in streams} == {None}
    assert {streamed.lasts[0]["tokens"] for streamed in streams} == {LONG["max_length"]}
    assert "Traceback" not in stopping.log
    found = {one: str(answer.status_code) for one, answer in probes.items()}
    found |= {"new requests": f"{told(refused)} `Retry-After`", "8 streams": "they finish"}
    measured(48, found | {"the process": f"it ends with status {status}"})


def test_a_request_that_comes_twice(start):
    body = {"prompt": "the", "max_tokens": 30, "temperature": 1.5, "seed": 7}
    with start() as server, ThreadPoolExecutor(2) as pool:
        raw = json.dumps(body | {"model": name_of(server)})
        gate = server.hold()
        asked = [pool.submit(send, server, raw, x_request_id="the-same") for _ in range(2)]
        wait_until(lambda: server.engine.num_live == 2)
        gate.open()
        one, other = (future.result() for future in asked)
        started = server.sample("inference_sequences_started_total")
    assert {answer.headers["x-request-id"] for answer in (one, other)} == {"the-same"}
    assert one.json()["choices"] == other.json()["choices"]
    assert one.json()["id"] != other.json()["id"]
    assert started == 2
    told_both = f"{told(one)} for each: requests are no jobs; the same seed gives the same answer"
    measured(49, {"at once": told_both})


class _Unforeseen:
    """In the place of a tokenizer: whatever is done with it raises, and tells too much."""

    def __getattr__(self, name: str) -> object:
        raise OSError(f"{name}: /etc/passwd at 0x7f00, 10.0.0.1:6379, {SECRET}")


def test_an_unforeseen_exception(start):
    with start() as server:
        codec = server.engine._lifecycle.codec
        server.engine._lifecycle.codec = replace(codec, tokenizer=_Unforeseen())
        answers = {
            "whole": post(server, prompt=SECRET),
            "streamed": post(server, prompt=SECRET, stream=True),
        }
        native = server.post({"prompt": SECRET})
        server.engine._lifecycle.codec = codec
    assert native.json() == {"detail": "Internal server error."}
    for answer in answers.values():
        for told_too_much in ("passwd", "0x7f", "10.0.0.1", SECRET):
            assert told_too_much not in answer.text
    measured(50, {case: told(answer) for case, answer in answers.items()})
