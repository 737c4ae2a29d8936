"""Exit statuses of the process, with signals at random moments."""

import json
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.servers import Server, serve

WITH_EXIT_HANDLER = (
    "import atexit; atexit.register(print, 'interpreter teardown');"
    " from src.main import main; main()"
)
BODY = {"prompt": "Once upon a time", "max_length": 5, "ignore_eos": True}


def until_it_listens(server: Server) -> None:
    server.wait_until("/health/live")


def while_it_loads(server: Server) -> None:
    """Waits for a random part of the loading time."""
    until_it_listens(server)
    time.sleep(random.uniform(0, 2))


def until_it_has_answered(server: Server) -> None:
    server.wait_until("/health/ready")
    assert server.post(BODY).status_code == 200


@pytest.mark.parametrize("moment", [until_it_listens, while_it_loads, until_it_has_answered])
def test_many_starts_and_stops_end_with_0(tmp_path, moment: Callable[[Server], None]):
    def start_and_stop(index: int) -> int:
        folder = tmp_path / str(index)
        folder.mkdir()
        with serve(folder, omp_num_threads=1) as server:
            moment(server)
            return server.stop(random.choice([signal.SIGTERM, signal.SIGINT]))

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(start_and_stop, range(3))) == {0}


def test_the_interpreter_teardown_is_skipped(tmp_path):
    with serve(tmp_path, ("-c", WITH_EXIT_HANDLER)) as server:
        until_it_has_answered(server)
        assert server.stop() == 0
        assert "Finished server process" in server.log
        assert "interpreter teardown" not in server.log


@pytest.mark.parametrize("num_signals", [1, 2])
def test_usage_is_on_disk_after_the_process_has_ended(tmp_path, num_signals):
    usage = tmp_path / "usage.jsonl"
    with serve(tmp_path, usage_log=usage) as server:
        server.wait_until("/health/ready")
        for _ in range(20):
            assert server.post(BODY).status_code == 200
        for _ in range(num_signals):
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    lines = [json.loads(line) for line in usage.read_text().splitlines()]
    assert [line["generated_tokens"] for line in lines] == [5] * 20
