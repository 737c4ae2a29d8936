"""Work on a chunk against a service that refuses for a while, and the credential of workers."""

import asyncio
import json

import pytest
import redis
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from src.celery_queue.chunk_worker import ChunkTask, WorkerOptions, answer_chunk
from src.celery_queue.keys import (
    ACCEPTED_HEADER,
    TOKEN_HEADER,
    answers_key,
    chunk_key,
    lease_key,
    token_key,
)
from src.celery_queue.tokens import LineTokens
from src.core.identity import ANONYMOUS, Caller
from src.jobs.records import Owner
from tests.conftest import wait_until
from tests.support.keys import create_key, id_of, run_keys
from tests.support.redis_server import Redis
from tests.support.servers import free_port

PATH = "/v1/completions"
SECRET = "a secret of at least thirty-two characters"
ACCEPTED = {ACCEPTED_HEADER: "true"}
TASK = ChunkTask("chunk", "server", PATH)


class Stub:
    """A service with the answers of a list; the last is repeated."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.received: list[tuple[str, str, bytes]] = []

    async def answer(self, request: Request) -> Response:
        headers = request.headers
        received = (headers["X-Request-ID"], headers[TOKEN_HEADER], await request.body())
        self.received.append(received)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def work(stub: Stub, storage: Redis, chunk_seconds: float = 60) -> None:
    """Lets a worker work on the chunk, with the stub as its service."""

    async def run() -> None:
        app = FastAPI()
        app.add_api_route(PATH, stub.answer, methods=["POST"])
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        await answer_chunk(TASK, WorkerOptions(storage.url, url, 1, chunk_seconds, 10))
        server.should_exit = True
        await serving

    asyncio.run(run())


@pytest.fixture
def database(storage: Redis):
    with redis.Redis.from_url(storage.url, decode_responses=True) as database:
        yield database


def answers(database: redis.Redis) -> list[tuple[str, int, str]]:
    values = [json.loads(text) for text in database.lrange(answers_key("server"), 0, -1)]
    return [(value["request_id"], value["status_code"], value["body"]) for value in values]


def test_refusals_for_now_and_other_servers_answers_are_no_answers(storage, database):
    database.hset(chunk_key("chunk"), mapping={"a": "1", "b": "2"})
    database.set(token_key("chunk"), "token")
    busy = JSONResponse({}, 429, ACCEPTED | {"Retry-After": "1"})
    proxy = PlainTextResponse("Bad gateway", 502)
    stub = Stub(busy, proxy, JSONResponse({"x": 1}, 400, ACCEPTED), JSONResponse({}, 200, ACCEPTED))
    work(stub, storage)
    assert stub.received == [("a", "token", b"1")] * 3 + [("b", "token", b"2")]
    assert answers(database) == [("a", 400, '{"x":1}'), ("b", 200, "{}")]
    assert not database.exists(chunk_key("chunk"), lease_key("chunk"))


def test_open_lines_of_a_deadline_are_left_for_another_worker(storage, database):
    database.hset(chunk_key("chunk"), mapping={"a": "1", "b": "2"})
    stub = Stub(
        JSONResponse({}, 200, ACCEPTED), JSONResponse({}, 503, ACCEPTED | {"Retry-After": "60"})
    )
    work(stub, storage, chunk_seconds=1)
    assert answers(database) == [("a", 200, "{}")]
    assert database.hgetall(chunk_key("chunk")) == {"b": "2"}
    assert not database.exists(lease_key("chunk"))


def test_a_chunk_of_another_worker_is_left_alone(storage, database):
    database.hset(chunk_key("chunk"), mapping={"a": "1"})
    database.set(lease_key("chunk"), "another")
    stub = Stub(JSONResponse({}, 200, ACCEPTED))
    work(stub, storage)
    assert (stub.received, database.get(lease_key("chunk"))) == ([], "another")


def test_a_line_that_the_server_withdraws_is_not_sent(storage, database):
    stub = Stub(JSONResponse({}, 200, ACCEPTED))
    work(stub, storage)
    assert (stub.received, answers(database)) == ([], [])


BODY = {"model": "storyteller", "prompt": "Once", "max_tokens": 2}


def test_a_line_token_stands_for_its_owner_on_its_path_alone(start_client, tmp_path):
    keys_file = tmp_path / "keys.json"
    key = create_key(keys_file, "batches", "--requests", "1")
    client = start_client(
        auth="api_key", api_keys_file=keys_file, batch_token_secret=SECRET, rate_limit_period=3600
    )
    owner = Owner(Caller(id=id_of(key), scopes=frozenset({"admin"})), "1.2.3.4")

    def send(token: str, path: str = PATH) -> Response:
        return client.post(path, json=BODY, headers={TOKEN_HEADER: token})

    tokens = LineTokens(SECRET)
    token = tokens.sign(owner, PATH, "batch", 60)
    for _ in range(2):  # beyond the key's limit of requests
        answer = send(token)
        assert (answer.status_code, answer.headers[ACCEPTED_HEADER]) == (200, "true")
    wrong = [
        LineTokens("x" * 32).sign(owner, PATH, "batch", 60),
        tokens.sign(owner, PATH, "batch", -60),
        tokens.sign(owner, "/v1/chat/completions", "batch", 60),
        key,
        "",
    ]
    for other in wrong:
        answer = send(other)
        assert (answer.status_code, ACCEPTED_HEADER in answer.headers) == (401, False)
    assert send(token, "/v1/embeddings").status_code == 401
    assert client.get("/metrics", headers={TOKEN_HEADER: token}).status_code == 401
    assert run_keys(keys_file, "revoke", id_of(key)).returncode == 0
    wait_until(lambda: send(token).status_code == 401)
    assert send(token).headers[ACCEPTED_HEADER] == "true"


def test_without_a_secret_no_token_is_accepted(client):
    token = LineTokens(SECRET).sign(Owner(ANONYMOUS), PATH, "batch", 60)
    answer = client.post(PATH, json=BODY, headers={TOKEN_HEADER: token})
    assert ACCEPTED_HEADER not in answer.headers
