"""Batches of real servers: kills, shutdowns and several workers lose no line and repeat none."""

import os
import signal
import time
from pathlib import Path

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.conftest import wait_until
from tests.support.batches import (
    as_text,
    chat_line,
    connect,
    ids_of,
    read_file,
    start,
    wait_for,
)
from tests.support.servers import serve, workers_of

NUM_KILLS = int(os.environ.get("BATCH_KILLS", "3"))
STORY = [{"role": "user", "content": "Tell me a story."}]


def stories(count: int) -> bytes:
    fields = {"messages": STORY, "max_tokens": 24, "ignore_eos": True, "temperature": 1}
    return as_text(chat_line(number, **fields) for number in range(count))


def assert_complete(client: OpenAI, batch: Batch, count: int) -> None:
    assert batch.status == "completed", batch
    answers = read_file(client, batch.output_file_id)
    assert ids_of(answers) == [str(number) for number in range(count)]
    assert (batch.request_counts.completed, batch.error_file_id) == (count, None)


def run_and_kill(folder: Path, batch: Batch | None, count: int, seconds: float) -> Batch:
    """Starts a server, kills it while it works on the batch, and returns what it last told."""
    with serve(folder, log_level="WARNING") as server:
        client = connect(server.url)
        server.wait_until("/health/ready")
        batch = batch or start(client, stories(count))
        time.sleep(seconds)
        latest = client.batches.retrieve(batch.id)
        assert latest.request_counts.completed >= batch.request_counts.completed
        server.process.kill()
        server.process.wait()
        return latest


@pytest.mark.timeout(900)
def test_a_killed_server_goes_on_where_it_was(tmp_path):
    batch, count = None, 150 * NUM_KILLS
    for number in range(NUM_KILLS):
        # At any point: while it validates, between answers, and before the old lease has ended.
        batch = run_and_kill(tmp_path, batch, count, (0.05, 1.1, 2.3, 0.6)[number % 4])
    with serve(tmp_path, log_level="WARNING") as server:
        client = connect(server.url)
        server.wait_until("/health/ready")
        assert_complete(client, wait_for(client, batch), count)


@pytest.mark.timeout(300)
def test_workers_share_batches_and_a_shutdown_ends_between_lines(tmp_path):
    with serve(tmp_path, log_level="WARNING", workers=2) as server:
        client = connect(server.url)
        server.wait_until("/health/ready")
        batches = [start(client, stories(200)) for _ in range(2)]
        for batch in batches:
            wait_for(client, batch, "in_progress")
        wait_until(lambda: len(workers_of(server)) == 2)
        os.kill(workers_of(server)[0], signal.SIGKILL)
        time.sleep(1)
        assert server.stop() == 0
    with serve(tmp_path, log_level="WARNING", workers=1) as server:
        client = connect(server.url)
        server.wait_until("/health/ready")
        for batch in batches:
            assert_complete(client, wait_for(client, batch), 200)
