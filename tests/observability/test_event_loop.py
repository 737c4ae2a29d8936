"""No request blocks the event loop: others are answered while a hostile one is refused.

Figures of a quiet machine are in docs/reliability.md.
"""

import asyncio
import http.client
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Histogram

from src.core.request_runner import HOLD_SECONDS, OutputReader
from src.engine.request import RequestOutput
from src.observability.event_loop_watchdog import TICK_SECONDS, EventLoopWatchdog
from tests.support.hostile_bodies import Hostile, all_bodies
from tests.support.servers import Server

logger = logging.getLogger(__name__)

BOUND = 0.5
"""Seconds that another request may wait; 0.1 suffice on a quiet machine."""

ATTEMPTS = 3
"""A request that blocks the loop does so each time; other load of the machine does not."""


class Probe:
    """Requests /health/live in a loop, and keeps the longest wait."""

    def __init__(self, server: Server) -> None:
        self._connection = connect(server)
        self._stops = threading.Event()
        self.longest = 0.0

    def _run(self) -> None:
        while not self._stops.is_set():
            started = time.monotonic()
            self._connection.request("GET", "/health/live")
            assert self._connection.getresponse().read()
            self.longest = max(self.longest, time.monotonic() - started)
            time.sleep(0.002)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stops.set()
            thread.join()
            self._connection.close()


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)


def post(server: Server, path: str, body: bytes) -> tuple[int, int]:
    """Returns status and size of an answer."""
    connection = connect(server)
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    size = len(response.read())
    connection.close()
    return response.status, size


def longest_wait(server: Server, path: str, body: bytes) -> float:
    """Returns the longest wait of other requests, in seconds, while a request is answered."""
    probe = Probe(server)
    with probe.running():
        status, size = post(server, path, body)
    assert status in (200, 400, 404, 422)
    assert status == 200 or size < 3000
    return probe.longest


@pytest.mark.parametrize("hostile", all_bodies(), ids=str)
def test_others_are_answered_during_a_hostile_request(server: Server, hostile: Hostile):
    body = hostile.body()
    waits: list[float] = []
    while min(waits, default=BOUND) >= BOUND:
        assert len(waits) < ATTEMPTS, f"another request waited {min(waits):.2f} s"
        waits.append(longest_wait(server, hostile.path, body))
    logger.info("%d ms for %s", min(waits) * 1000, hostile)  # --log-cli-level=INFO shows it


def test_the_watchdog_measures_the_lag_of_the_event_loop():
    registry = CollectorRegistry()
    lag = Histogram("lag", "Lag.", buckets=(1, 2), registry=registry)

    async def block() -> None:
        watching = asyncio.create_task(EventLoopWatchdog(lag).watch())
        await asyncio.sleep(3 * TICK_SECONDS)
        asyncio.get_running_loop().call_soon(time.sleep, 1.2)
        await asyncio.sleep(3 * TICK_SECONDS)
        watching.cancel()

    asyncio.run(block())
    assert registry.get_sample_value("lag_bucket", {"le": "1.0"}) >= 2
    assert registry.get_sample_value("lag_sum") > 1


def test_reading_queued_outputs_yields_to_the_event_loop():
    num_outputs, num_turns = 200, 0

    async def read() -> None:
        queue: asyncio.Queue[RequestOutput | None] = asyncio.Queue()
        for _ in range(num_outputs):
            queue.put_nowait(RequestOutput("a", []))
        outputs = OutputReader(queue)
        for _ in range(num_outputs):
            await outputs.get()
            time.sleep(HOLD_SECONDS / 10)  # noqa: ASYNC251 - as rendering does

    async def count() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        counting = asyncio.create_task(count())
        await read()
        counting.cancel()

    asyncio.run(run())
    assert 10 <= num_turns <= num_outputs
