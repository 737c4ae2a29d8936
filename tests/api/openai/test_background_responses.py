"""`background: true` of `/v1/responses` through OpenAI's client, over HTTP."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx2
import openai
import pytest
from openai.types.responses import Response

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.batches import connect
from tests.support.keys import create_key, id_of, run_keys
from tests.support.servers import LocalServer, Server, parse_samples, serve, serve_app
from tests.support.wire import assert_shape

BODY = {"model": "storyteller", "input": "What is the capital of France?", "temperature": 0}
ANSWER = "The capital of France is Paris."
OPEN = ("queued", "in_progress")
URL = "/v1/responses"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keys(keys_file) -> list[str]:
    return [create_key(keys_file, name) for name in ("first", "second")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def background_server(folder, keys_file, keys) -> Iterator[LocalServer]:
    settings = create_settings(
        batch_dir=folder / "batches",
        auth="api_key",
        api_keys_file=keys_file,
        background_max_responses=5,
        usage_log=folder / "usage.jsonl",
        batch_concurrency=2,
    )
    with serve_app(create_app(settings)) as server:
        yield server


@pytest.fixture
def ai(background_server, keys) -> openai.OpenAI:
    return connect(background_server.url, keys[0])


def finish(ai: openai.OpenAI, response: Response) -> Response:
    """Polls until a response has ended."""
    latest = response

    def has_ended() -> bool:
        nonlocal latest
        latest = ai.responses.retrieve(response.id)
        return latest.status not in OPEN

    wait_until(has_ended)
    return latest


def test_the_documented_example_runs(ai, background_server, keys, folder):
    """Follows OpenAI's guide, with this server's model."""
    queued = ai.responses.create(**BODY, background=True, metadata={"a": "b"})
    assert (queued.status, queued.output, queued.usage) == ("queued", [], None)
    assert (queued.background, queued.metadata) == (True, {"a": "b"})
    done = finish(ai, queued)
    assert (done.status, done.output_text, done.error) == ("completed", ANSWER, None)
    same = ("id", "created_at", "background", "metadata")
    assert [getattr(done, name) for name in same] == [getattr(queued, name) for name in same]
    url, headers = f"{background_server.url}{URL}/{queued.id}", bearer(keys[0])
    assert_shape(Response, httpx2.get(url, headers=headers).json())
    wait_until(lambda: queued.id in (folder / "usage.jsonl").read_text())
    assert ai.responses.delete(queued.id) is None
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(queued.id)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def samples_of(server: LocalServer) -> dict[tuple[str, ...], float]:
    return parse_samples(server.service.http_metrics.render("")[0].decode())


def test_a_cut_answer_is_incomplete(ai):
    response = finish(ai, ai.responses.create(**BODY, background=True, max_output_tokens=2))
    assert (response.status, response.usage.output_tokens) == ("incomplete", 2)


def test_a_cancelled_response_ends_and_others_go_on(ai, background_server):
    gate = background_server.hold()
    running, queued, other = (ai.responses.create(**BODY, background=True) for _ in range(3))
    wait_until(lambda: ai.responses.retrieve(running.id).status == "in_progress")
    gate.wait()
    for response in (running, queued):
        assert ai.responses.cancel(response.id).status == "cancelled"
        assert ai.responses.cancel(response.id).status == "cancelled"
    gate.open()
    wait_until(lambda: background_server.engine.num_live == 0)
    assert finish(ai, other).output_text == ANSWER
    answered = ("inference_background_responses_total", "completed")
    assert samples_of(background_server)[answered] > 0
    wait_until(lambda: not samples_of(background_server)[("inference_background_responses_open",)])
    assert ai.responses.cancel(other.id).status == "completed"
    assert ai.responses.retrieve(running.id).output == []


def test_a_key_sees_its_own_responses_alone(ai, background_server, keys):
    response = ai.responses.create(**BODY, background=True)
    stranger = connect(background_server.url, keys[1])
    for ask in (stranger.responses.retrieve, stranger.responses.cancel, stranger.responses.delete):
        with pytest.raises(openai.NotFoundError) as error:
            ask(response.id)
        assert error.value.body["code"] == "not_found"
    assert finish(ai, response).status == "completed"


def test_the_oldest_that_has_ended_makes_room_and_unfinished_ones_are_bounded(
    ai, background_server
):
    old = finish(ai, ai.responses.create(**BODY, background=True))
    gate = background_server.hold()
    new = [ai.responses.create(**BODY, background=True) for _ in range(5)]
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(old.id)
    with pytest.raises(openai.RateLimitError, match="BACKGROUND_MAX_RESPONSES") as error:
        ai.responses.create(**BODY, background=True)
    assert int(error.value.response.headers["Retry-After"]) > 0
    for response in new:
        ai.responses.cancel(response.id)
    gate.open()


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"stream": True}, "stream", "cannot be streamed"),
        ({"store": False}, "store", "are stored"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "context"),
        ({"background": 1}, "background", "boolean"),
    ],
)
def test_an_invalid_request_is_refused_at_once(background_server, keys, fields, param, message):
    body = BODY | {"background": True} | fields
    url = background_server.url + URL
    answer = httpx2.post(url, json=body, headers=bearer(keys[0]))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


def test_polling_with_a_stream_is_refused_and_unknown_ids_are_not_found(background_server, keys):
    def get(path: str) -> httpx2.Response:
        return httpx2.get(background_server.url + URL + path, headers=bearer(keys[0]))

    assert get("/resp_x?stream=true").json()["error"]["param"] == "stream"
    assert get("/resp_x").json()["error"]["message"] == "There is no background response resp_x."
    assert get("/resp_x").status_code == 404


def test_a_failure_of_the_model_is_the_responses_own(start_server, tmp_path):
    server = start_server(batch_dir=tmp_path / "batches", chat_template="{{ messages[0].content }}")
    ai = connect(server.url)
    server.break_model(fail)
    body = {"model": server.engine.model_name, "input": "a", "max_output_tokens": 4}
    failed = finish(ai, ai.responses.create(**body, background=True))
    assert (failed.status, failed.error.code, failed.output) == ("failed", "server_error", [])


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("made to fail")


def test_responses_of_a_revoked_key_fail(background_server, keys_file):
    key = create_key(keys_file, "revoked")
    url = background_server.url + URL
    post = {"json": BODY | {"background": True}, "headers": bearer(key)}
    wait_until(lambda: httpx2.get(url + "/x", headers=bearer(key)).status_code == 404)
    gate = background_server.hold()
    for _ in range(3):  # the last waits for a place
        assert httpx2.post(url, **post).status_code == 200
    assert run_keys(keys_file, "revoke", id_of(key)).returncode == 0
    wait_until(lambda: httpx2.get(url + "/x", headers=bearer(key)).status_code == 401)
    gate.open()
    path = background_server.service.settings.batch_dir / "jobs.sqlite"
    wait_until(lambda: b"unknown, expired or revoked" in read_all(path))


def read_all(path) -> bytes:
    return b"".join(part.read_bytes() for part in path.parent.glob(path.name + "*"))


def test_without_room_for_any_they_are_refused(start_client, tmp_path):
    client = start_client(background_max_responses=0, batch_dir=tmp_path / "batches")
    answer = client.post(URL, json=BODY | {"background": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "background")
    assert not (tmp_path / "batches").exists()


def create_stories(server: Server) -> tuple[openai.OpenAI, list[Response]]:
    """Starts responses, and returns when the first is in progress."""
    server.wait_until("/health/ready")
    ai = connect(server.url)
    story = BODY | {"input": "Tell me a long story.", "max_output_tokens": 200}
    responses = [ai.responses.create(**story, background=True) for _ in range(4)]
    wait_until(lambda: ai.responses.retrieve(responses[0].id).status != "queued")
    return ai, responses


@pytest.mark.timeout(120)
def test_responses_survive_a_kill_and_a_shutdown_ends_between_them(tmp_path):
    settings = {"log_level": "WARNING", "batch_concurrency": 1}
    with serve(tmp_path, **settings) as server:
        _, killed = create_stories(server)
        server.process.kill()
        server.process.wait()
    with serve(tmp_path, **settings) as server:
        ai, stopped = create_stories(server)
        ended = [finish(ai, response) for response in killed]
        assert {response.status for response in ended} <= {"completed", "incomplete"}
        assert all(response.output_text for response in ended)
        assert server.stop() == 0
    with closing(sqlite3.connect(tmp_path / "batches" / "jobs.sqlite")) as database:
        states = dict(database.execute("SELECT id, status FROM responses"))
    assert {states[response.id] for response in stopped} <= {"queued", "completed", "incomplete"}
