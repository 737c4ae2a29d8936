"""The fields `priority` and `service_tier` of all generation routes, and the scope for them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from src.engine.request import Priority, Request
from tests.conftest import wait_until
from tests.support.batches import as_text, chat_line, connect, read_file, start, wait_for
from tests.support.keys import bearer, create_key
from tests.support.servers import LocalServer
from tests.support.wire import openai_client, post

MODEL = "storyteller"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
BODIES: dict[str, dict[str, object]] = {
    "/generate": {"prompt": "Once", "max_length": 2},
    "/generate/batch": {"prompts": ["Once"], "max_length": 2},
    "/v1/completions": {"model": MODEL, "prompt": "Once", "max_tokens": 2},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": MODEL, "input": "Hi", "max_output_tokens": 2},
    "/v1/messages": CHAT,
    "/v1/embeddings": {"model": MODEL, "input": "Hi"},
}
TIERED = ("/v1/completions", "/v1/chat/completions", "/v1/responses")


def record(server: LocalServer) -> list[Priority]:
    """Collects the classes of requests that the engine gets."""
    found: list[Priority] = []
    engine = server.engine._lifecycle.require_engine()
    real = engine.add_requests

    def add_requests(requests: list[Request]) -> None:
        found.extend(request.priority for request in requests)
        real(requests)

    engine.add_requests = add_requests
    return found


@pytest.fixture
def server(start_server: Callable[..., LocalServer]) -> LocalServer:
    return start_server(model_name=MODEL, max_batch_size=1)


def test_all_generation_routes_take_a_priority(server):
    found = record(server)
    for path, body in BODIES.items():
        for priority, expected in [
            (-1, Priority.INTERACTIVE),
            (0, Priority.DEFAULT),
            (None, Priority.DEFAULT),
            (7, Priority.BATCH),
        ]:
            answer = post(server, path, **body, priority=priority)
            assert answer.status_code == 200, answer.text
            assert "Warning" not in answer.headers
            assert found == [expected], (path, priority)
            found.clear()


@pytest.mark.parametrize("path", TIERED)
def test_a_tier_stands_for_a_priority_and_the_answer_names_it(server, path):
    found = record(server)
    for tier, expected, named in [
        ("priority", Priority.INTERACTIVE, "priority"),
        ("flex", Priority.BATCH, "flex"),
        ("auto", Priority.DEFAULT, "default"),
        ("default", Priority.DEFAULT, "default"),
    ]:
        answer = post(server, path, **BODIES[path], service_tier=tier)
        assert answer.status_code == 200, answer.text
        assert found == [expected]
        found.clear()
        if path != "/v1/completions":
            assert answer.json()["service_tier"] == named
    post(server, path, **BODIES[path], service_tier="flex", priority=-1)
    assert found == [Priority.INTERACTIVE]


def test_openai_s_client_reads_the_tier_of_a_stream(server):
    chunks = openai_client(server).chat.completions.create(**CHAT, service_tier="flex", stream=True)
    assert {chunk.service_tier for chunk in chunks} == {"flex"}


@pytest.mark.parametrize("value", ["high", 2**31, 0.5, True])
def test_a_priority_that_is_no_integer_is_refused_by_name(server, value):
    answer = post(server, "/v1/chat/completions", **CHAT, priority=value)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"


def test_requests_are_answered_by_class(server):
    gate, done = server.hold(), []

    def ask(name: str, path: str, **fields: object) -> None:
        assert post(server, path, **BODIES[path], **fields).status_code == 200
        done.append(name)

    requests = [
        ("first", "/v1/completions", {}),
        ("flex", "/v1/chat/completions", {"service_tier": "flex"}),
        ("default", "/v1/messages", {}),
        ("interactive", "/generate", {"priority": -1}),
    ]
    with ThreadPoolExecutor() as pool:
        for number, (name, path, fields) in enumerate(requests):
            pool.submit(ask, name, path, **fields)
            wait_until(lambda number=number: server.engine.num_live == number + 1)
            if not number:
                gate.wait()
        gate.open()
    assert done == ["first", "interactive", "default", "flex"]


def test_a_running_flex_request_makes_way_and_has_the_same_answer_as_alone(start_server):
    server = start_server(model_name=MODEL, max_batch_size=1)
    body = BODIES["/v1/completions"] | {"max_tokens": 30, "seed": 5, "service_tier": "flex"}
    alone = post(server, "/v1/completions", **body).json()["choices"]
    gate, done = server.hold(), []

    def ask(name: str, path: str, **fields: object) -> object:
        answer = post(server, path, **fields).json()["choices"]
        done.append(name)
        return answer

    with ThreadPoolExecutor(2) as pool:
        flex = pool.submit(ask, "flex", "/v1/completions", **body)
        gate.let(5)
        pool.submit(ask, "chat", "/v1/chat/completions", **CHAT)
        wait_until(lambda: server.engine.num_live == 2)
        gate.open()
    assert flex.result() == alone
    assert done == ["chat", "flex"]
    assert server.sample("inference_sequences_preempted_total") == 1


def test_raising_a_request_needs_the_scope(start_server, tmp_path: Path):
    file = tmp_path / "keys.json"
    plain = create_key(file, "plain")
    raised = create_key(file, "raised", "--scopes", "generate,priority")
    admin = create_key(file, "admin", "--scopes", "admin")
    server = start_server(model_name=MODEL, auth="api_key", api_keys_file=file)
    server.headers = bearer(admin)
    found = record(server)

    def ask(key: str, **fields: object) -> httpx2.Response:
        return httpx2.post(
            server.url + "/v1/chat/completions", json=CHAT | fields, headers=bearer(key), timeout=60
        )

    assert ask(raised, service_tier="priority").json()["service_tier"] == "priority"
    lowered = ask(plain, service_tier="priority")
    assert lowered.json()["service_tier"] == "default"
    assert lowered.headers["Warning"] == '299 - "without effect: service_tier"'
    assert ask(plain, priority=-3).headers["Warning"] == '299 - "without effect: priority"'
    assert ask(plain, priority=3).status_code == 200
    assert found == [
        Priority.INTERACTIVE,
        Priority.DEFAULT,
        Priority.DEFAULT,
        Priority.BATCH,
    ]


def test_lines_of_a_batch_stay_in_the_background(start_server, tmp_path: Path):
    server = start_server(model_name=MODEL, batch_dir=tmp_path)
    found, client = record(server), connect(server.url)
    lines = [chat_line(0, service_tier="priority"), chat_line(1, priority=-1), chat_line(2)]
    batch = wait_for(client, start(client, as_text(lines)))
    answers = read_file(client, batch.output_file_id)
    tiers = [answer["response"]["body"].get("service_tier") for answer in answers]
    assert found == [Priority.BATCH] * 3
    assert sorted(tiers, key=str) == [None, None, "flex"]
