"""BATCH_BACKEND=celery with a real Redis and real workers: each line is answered once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.batches import as_text, chat_line, connect, ids_of, read_file, start
from tests.support.batches import wait_for as wait_for_batch
from tests.support.celery_workers import CeleryWorker, celery_workers
from tests.support.keys import create_key, id_of
from tests.support.redis_server import Redis
from tests.support.servers import LocalServer, serve_app

SECRET = "a secret that the servers of this test share"
STORY = [{"role": "user", "content": "Tell me a story."}]
NUM_LINES = 60


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys_file: Path) -> str:
    return create_key(keys_file, "batches")


@pytest.fixture
def server(tmp_path: Path, storage: Redis, keys_file: Path, key: str) -> Iterator[LocalServer]:
    settings = create_settings(
        batch_dir=tmp_path / "batches",
        batch_backend="celery",
        batch_broker_url=storage.url,
        batch_token_secret=SECRET,
        batch_chunk_lines=5,
        auth="api_key",
        api_keys_file=keys_file,
        usage_log=tmp_path / "usage.jsonl",
    )
    with serve_app(create_app(settings)) as server:
        yield server


@pytest.fixture
def workers(tmp_path: Path, storage: Redis, server: LocalServer) -> Iterator[list[CeleryWorker]]:
    options = {
        "batch_broker_url": storage.url,
        "batch_service_url": server.url,
        "batch_concurrency": 2,
    }
    with celery_workers(tmp_path, 2, **options) as workers:
        yield workers


def stories(count: int) -> bytes:
    fields = {"messages": STORY, "max_tokens": 24, "ignore_eos": True, "temperature": 1}
    return as_text(chat_line(number, **fields) for number in range(count))


def test_a_killed_worker_and_a_lost_redis_lose_no_line(server, workers, storage, key, tmp_path):
    client = connect(server.url, key)
    server.slow_down(0.008)
    batch = start(client, stories(NUM_LINES))

    def num_answered() -> int:
        return client.batches.retrieve(batch.id).request_counts.completed

    wait_until(lambda: all(worker.num_tasks > 0 for worker in workers))
    workers[0].kill()
    before = num_answered()
    wait_until(lambda: num_answered() > before)
    storage.stop()
    storage.start()  # empty, as it stores nothing
    batch = wait_for_batch(client, batch)
    answers = read_file(client, batch.output_file_id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert ids_of(answers) == [str(number) for number in range(NUM_LINES)]
    request_ids = {line["response"]["request_id"] for line in answers}
    wait_until(lambda: request_ids <= {line["request_id"] for line in used(tmp_path)})
    assert {line["key"] for line in used(tmp_path)} == {id_of(key)}


def used(folder: Path) -> list[dict[str, object]]:
    """Returns the lines of the usage log that are written whole."""
    text = (folder / "usage.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
