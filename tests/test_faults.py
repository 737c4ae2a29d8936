"""What breaks in a real process: who is told what, who goes on, and when the process ends."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest

from tests.conftest import assert_started_are_accounted_for, wait_until
from tests.faulty_server import NO_NUMBER, POISON
from tests.servers import Server, Streamed, serve
from tests.tiny_models import create_tokenizer

BANS = {str(create_tokenizer().convert_tokens_to_ids(text)): -100 for text in (POISON, NO_NUMBER)}
GOOD = {"max_length": 15, "temperature": 1.0, "top_p": 1, "logit_bias": BANS}
LONG = GOOD | {"prompt": "secret words", "max_length": 100}
GOOD_BODIES = [
    GOOD | {"prompt": prompt, "seed": seed}
    for seed, prompt in enumerate(("the", "the cat", "a mat", "on", "hat", "was"))
]


@pytest.fixture
def start_faulty_server(tiny_model, tmp_path) -> Callable[..., AbstractContextManager[Server]]:
    """Returns a function that starts `tests.faulty_server`; its faults are files in `tmp_path`."""
    command = ("-m", "tests.faulty_server", str(tmp_path))
    return lambda **settings: serve(tmp_path, command, model_name=tiny_model(), **settings)


def state(server: Server) -> tuple[float, float]:
    samples = server.samples()
    names = ("inference_sequences_running", "inference_sequences_waiting")
    return tuple(samples.get((name,), 0.0) for name in names)


@pytest.mark.parametrize(
    ("fault", "settings"), [("die", {}), ("hang", {"hang_timeout_seconds": 2})]
)
def test_when_the_engine_dies_or_hangs_all_are_told_and_the_process_ends(
    start_faulty_server, tmp_path, fault, settings
):
    with (
        start_faulty_server(max_batch_size=2, faulty_step_seconds=0.1, **settings) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        server.wait_until("/health/ready")
        running = [pool.submit(server.stream, LONG), pool.submit(server.post, LONG)]
        wait_until(lambda: state(server) == (2, 0))
        waiting = [
            pool.submit(server.post, LONG | {"stream": True}),
            pool.submit(server.post, LONG),
        ]
        wait_until(lambda: state(server) == (2, 2))
        (tmp_path / fault).touch()
        streamed: Streamed = running[0].result(60)
        responses = [future.result(60) for future in (running[1], *waiting)]
        last_words = [httpx2.get(server.url + path) for path in ("/health", "/health/live")]
        refused = server.post(LONG)
        samples = server.samples()
        assert server.process.wait(60) == 1

    assert streamed.error["code"] == 503
    assert streamed.texts[0].startswith(LONG["prompt"])
    for response in (*responses, refused):
        assert response.status_code == 503
        assert "engine has ended" in response.json()["detail"]
    for response in last_words:
        assert response.status_code == 503
        assert response.json()["status"] == "unhealthy"
    assert samples["inference_requests_total", "/generate", "error"] == 5
    assert samples["inference_sequences_failed_total", "error"] == 4
    assert samples["inference_ready",] == 0
    assert_started_are_accounted_for(samples)
    assert "Traceback" in server.log if fault == "die" else "hangs" in server.log
    assert "secret" not in server.log


@pytest.fixture(scope="module")
def faulty(tiny_model, tmp_path_factory) -> Iterator[tuple[Server, Path, list[dict]]]:
    """A server that lives on, the folder of its faults, and its answers to GOOD_BODIES alone."""
    folder = tmp_path_factory.mktemp("faulty")
    with serve(
        folder,
        ("-m", "tests.faulty_server", str(folder)),
        model_name=tiny_model(),
        faulty_step_seconds=0.01,
    ) as server:
        server.wait_until("/health/ready")
        yield server, folder, [server.post(body).json() for body in GOOD_BODIES]
        wait_until(lambda: server.sample("inference_sequences_live") == 0)
        assert server.process.poll() is None


def post_all(server: Server, bodies: list[dict]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.post, bodies))


@pytest.mark.parametrize("fault", [POISON, NO_NUMBER])
def test_a_request_that_makes_the_model_fail_fails_alone(faulty, fault):
    server, _, alone = faulty
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
    server, _, alone = faulty
    forced = {"logit_bias": {next(iter(BANS)): 100}}
    bad, good = server.streams([GOOD | forced | {"prompt": "the"}, GOOD_BODIES[0]])
    assert good.generated() == alone[0]["generated"]
    assert bad.error["code"] == 500
    assert bad.texts[0] == "the" + POISON


def test_what_there_is_no_memory_for_at_once_is_computed_in_parts(faulty):
    server, folder, alone = faulty
    fits = folder / "fits"
    fits.write_text("4")
    try:
        too_large = GOOD | {"prompt": "xxxxxx"}
        *responses, failed = post_all(server, [*GOOD_BODIES, too_large])
    finally:
        fits.unlink()
    assert failed.status_code == 500
    assert [response.json() for response in responses] == alone
