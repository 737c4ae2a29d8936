"""The processes that `benchmarks.soak` asks, of which one is killed if there are several.

A worker that is killed takes its connections with it, and what it was computing; another comes in
its place, and takes connections once it can serve. That much is excused, and nothing else.
"""

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from benchmarks.servers import Server
from benchmarks.soak_clients import CAPACITY, CLIENTS, Broken, Seen
from benchmarks.workload import BenchmarkError
from src.config import Settings

START_TIMEOUT = 120  # seconds
CUT_SECONDS = 5
"""After a worker's death: until then all clients have seen that their connections are gone."""

LIMIT = "inference_sequences_limit"
Metrics = dict[str, float]
Promise = tuple[str, str, bool]


@dataclass(slots=True)
class Workers:
    """One process or several behind one port, and what became of them: times, or infinity.

    Args:
        server: one alone is the server itself; several are its children.
        number: of them.
        process_ids: of those that were there from the beginning, and were not killed.
        killed_at: when one was.
        missed_at: when the metrics said that one was missing.
        back_at: when they said that all are there.
    """

    server: Server
    number: int
    process_ids: list[int] = field(default_factory=list)
    killed_at: float = math.inf
    missed_at: float = math.inf
    back_at: float = math.inf

    def wait_until_loaded(self, read_metrics: Callable[[], Metrics]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._are_all_there(read_metrics()):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.number} workers did not load in {START_TIMEOUT} s")
            time.sleep(0.2)
        children = psutil.Process(self.server.process_id).children()
        workers = [one.pid for one in children if "spawn_main" in " ".join(one.cmdline())]
        self.process_ids = workers or [self.server.process_id]

    def memory(self) -> dict[int, float]:
        """MiB of each, by its process id."""
        return {one: Server(self.server.url, one).memory() for one in self.process_ids}

    def kill_one(self) -> None:
        """Kills the one that has most connections."""
        busiest = max(self.process_ids, key=lambda one: len(psutil.Process(one).net_connections()))
        self.process_ids.remove(busiest)
        os.kill(busiest, signal.SIGKILL)
        self.killed_at = time.monotonic()

    def look(self, metrics: Metrics) -> None:
        """Notes who is there."""
        now = time.monotonic()
        if self.killed_at < now and not self._are_all_there(metrics):
            self.missed_at = min(self.missed_at, now)
        elif self.missed_at < now:
            self.back_at = min(self.back_at, now)

    @property
    def are_back(self) -> bool:
        return self.killed_at == math.inf or self.back_at < math.inf

    def excuses(self, broken: Broken) -> bool:
        """Whether that comes from a worker's death."""
        return broken.is_cut and self.killed_at <= broken.at <= self.killed_at + CUT_SECONDS

    def promises(self, seen: Seen, num_lost: float) -> list[Promise]:
        """What holds when one was killed.

        Args:
            seen: by the clients.
            num_lost: sequences that were started and have no end.
        """
        num_cut = sum(self.excuses(broken) for broken in seen.broken)
        num_clients = sum(kind.number_for(self.number) for kind in CLIENTS.values())
        missed, back = (one - self.killed_at for one in (self.missed_at, self.back_at))
        return [
            (
                f"a killed worker cuts no more off than there are clients, within {CUT_SECONDS} s",
                f"{num_cut} connections of {num_clients} clients",
                0 < num_cut <= num_clients,
            ),
            (
                "started = finished + failed + aborted + what ran in the killed worker",
                f"{num_lost:.0f} of {num_cut} cut connections ran",
                0 <= num_lost <= num_cut + CLIENTS["leaving"].number_for(self.number),
            ),
            (
                "another worker takes its place",
                f"missed after {missed:.1f} s, replaced after {back:.1f} s",
                back < math.inf,
            ),
        ]

    def _are_all_there(self, metrics: Metrics) -> bool:
        each = CAPACITY + Settings.model_fields["max_queue_size"].default
        return metrics[LIMIT] == self.number * each
