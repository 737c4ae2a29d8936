"""Processes of the service under `benchmarks.soak`; of several, one is killed.

A killed worker takes its connections and sequences with it. Another replaces it, and accepts
connections once it can serve. Nothing else is excused.
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
"""Seconds after a worker's death in which clients notice their lost connections."""

LIMIT = "inference_sequences_limit"
Metrics = dict[str, float]
Promise = tuple[str, str, bool]


@dataclass(slots=True)
class Workers:
    """One process or several behind one port, with the times of their events, infinite at first.

    Args:
        server: the server itself if alone; several are its children.
        number: number of processes.
        process_ids: ids of the processes that ran from the beginning and were not killed.
        killed_at: time of the kill.
        missed_at: time at which the metrics lacked a process.
        back_at: time at which the metrics had all again.
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
        workers = [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
        self.process_ids = workers or [self.server.process_id]

    def memory(self) -> dict[int, float]:
        """Returns the memory of each process in MiB, by its id."""
        return {
            process_id: Server(self.server.url, process_id).memory()
            for process_id in self.process_ids
        }

    def kill_one(self) -> None:
        """Kills the process with most connections."""
        busiest = max(
            self.process_ids,
            key=lambda process_id: len(psutil.Process(process_id).net_connections()),
        )
        self.process_ids.remove(busiest)
        os.kill(busiest, signal.SIGKILL)
        self.killed_at = time.monotonic()

    def look(self, metrics: Metrics) -> None:
        """Records the processes that report metrics."""
        now = time.monotonic()
        if self.killed_at < now and not self._are_all_there(metrics):
            self.missed_at = min(self.missed_at, now)
        elif self.missed_at < now:
            self.back_at = min(self.back_at, now)

    @property
    def are_back(self) -> bool:
        return self.killed_at == math.inf or self.back_at < math.inf

    def excuses(self, broken: Broken) -> bool:
        """Tells a consequence of the worker's death from other anomalies."""
        return broken.is_cut and self.killed_at <= broken.at <= self.killed_at + CUT_SECONDS

    def promises(self, seen: Seen, num_lost: float) -> list[Promise]:
        """Checks the promises after a kill.

        Args:
            seen: observations of the clients.
            num_lost: sequences that were started and have no end.
        """
        num_cut = sum(self.excuses(broken) for broken in seen.broken)
        num_clients = sum(kind.number_for(self.number) for kind in CLIENTS.values())
        missed, back = (moment - self.killed_at for moment in (self.missed_at, self.back_at))
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
