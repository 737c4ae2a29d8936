"""Soak test with overload and faults: `make soak MINUTES=5`.

Serves the bundled model with keys, and with limits that are counted in a Redis of its own. Clients
send valid and invalid requests, stream, disconnect, read slowly and send slowly (`soak_clients`).
Clients of one key are three times as many as can run; two other keys send one request at a time.
After a third of the time Redis is killed, and restarted at the half; of several workers one is
killed in between. Results and promises are printed; the exit status is 1 if a promise is broken.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.bench_model import BENCH_FOLDER
from benchmarks.report import milliseconds, note, table
from benchmarks.servers import Server
from benchmarks.soak_clients import CAPACITY, CLIENTS, Seen, run_clients
from benchmarks.soak_service import Redis, serve
from benchmarks.soak_workers import Promise, Workers

QUICK_SECONDS = 12
END_TIMEOUT = 60  # seconds for abandoned requests to end
SLOPE_BOUND = 20  # MiB a minute, in the second half
RUNNING = "running, by Redis"
UP = "inference_rate_limit_storage_up"


@dataclass(slots=True)
class Watch:
    """Measurements of the server while clients run: seconds, MiB, and the state of Redis."""

    memory: list[tuple[float, dict[int, float]]] = field(default_factory=list)
    storage_up: list[bool] = field(default_factory=list)

    def sizes(self, process_id: int) -> list[float]:
        """Returns the memory of a process in MiB."""
        return [sizes[process_id] for _, sizes in self.memory]

    def slope(self, process_id: int) -> float:
        """Returns the growth of memory in the second half, in MiB a minute."""
        middle = (self.memory[0][0] + self.memory[-1][0]) / 2
        half = [(at, sizes[process_id]) for at, sizes in self.memory if at >= middle]
        times, sizes = zip(*half, strict=True)
        return 60 * statistics.linear_regression(times, sizes).slope


def read_metrics(server: Server, key: str) -> dict[str, float]:
    """Returns each metric's samples, summed over their labels."""
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx2.get(f"{server.url}/metrics", headers=headers, timeout=30).raise_for_status()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def _watch(workers: Workers, key: str, watch: Watch, until: float) -> None:
    while (now := time.monotonic()) < until:
        try:
            metrics = await asyncio.to_thread(read_metrics, workers.server, key)
        except httpx2.TransportError:
            if workers.killed_at > now + 1:
                raise
            continue
        workers.look(metrics)
        watch.memory.append((now, workers.memory()))
        watch.storage_up.append(metrics[UP] == 1)
        await asyncio.sleep(0.5)


async def _break_redis(redis: Redis, seconds: float) -> None:
    await asyncio.sleep(seconds / 3)
    redis.kill()
    note("Redis is killed ...")
    await asyncio.sleep(seconds / 6)
    redis.start()
    note("and started again")


async def _break_worker(workers: Workers, seconds: float) -> None:
    if workers.number > 1:
        await asyncio.sleep(seconds * 5 / 12)
        workers.kill_one()
        note("A worker is killed ...")


async def _run(
    workers: Workers, redis: Redis, keys: dict[str, str], seconds: float
) -> tuple[Seen, Watch]:
    watch, until = Watch(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        group.create_task(_break_redis(redis, seconds))
        group.create_task(_break_worker(workers, seconds))
        group.create_task(_watch(workers, keys["reader"], watch, until))
        clients = group.create_task(run_clients(workers.server.url, workers.number, keys, until))
    return clients.result(), watch


def _metrics_at_rest(workers: Workers, redis: Redis, key: str) -> dict[str, float]:
    """Returns the metrics once nothing runs and all workers report, or after a timeout."""
    deadline = time.monotonic() + END_TIMEOUT
    while True:
        metrics = read_metrics(workers.server, key)
        metrics[RUNNING] = redis.num_running()
        workers.look(metrics)
        is_at_rest = not metrics["inference_sequences_live"] and not metrics[RUNNING]
        all_are_back = workers.are_back and metrics[UP] == 1
        if (is_at_rest and all_are_back) or time.monotonic() > deadline:
            return metrics
        time.sleep(0.2)


def _promises(
    seen: Seen, watch: Watch, workers: Workers, metrics: dict[str, float]
) -> list[Promise]:
    """Checks the promises that hold for any duration."""
    started, *ends = (
        metrics[f"inference_sequences_{name}_total"]
        for name in ("started", "finished", "failed", "aborted")
    )
    left = [metrics[f"inference_sequences_{name}"] for name in ("live", "running", "waiting")]
    left.append(metrics[RUNNING])
    broken = Counter(anomaly.what for anomaly in seen.broken if not workers.excuses(anomaly))
    sums: list[Promise] = [
        (
            "started = finished + failed + aborted",
            f"{started:.0f} = {_numbers(ends, ' + ')}",
            started == sum(ends) and started > 0,
        )
    ]
    if workers.number > 1:
        sums = workers.promises(seen, started - sum(ends))
    errors = {status for _, status in seen.statuses if status >= 500} - {503}
    refused = seen.statuses["over its limit", 429]
    down, up = False in watch.storage_up, metrics[UP] == 1
    return [
        ("no 5xx but 503", ", ".join(map(str, sorted(errors))) or "none", not errors),
        (
            "each client was answered what it should be",
            "; ".join(f"{number} times {what}" for what, number in broken.items()) or "all",
            not broken,
        ),
        (
            "each kind of client was answered",
            f"{len(seen.seconds)} of {len(CLIENTS)}",
            set(seen.seconds) == set(CLIENTS),
        ),
        (
            "nothing is live, runs or waits afterwards, or has a lease",
            _numbers(left, ", "),
            not any(left),
        ),
        *sums,
        ("a key with a limit is held to it", f"{refused} refusals", refused > 0),
        ("Redis was missed, and found again", f"missed: {down}, found: {up}", down and up),
    ]


def _numbers(numbers: Sequence[float], separator: str) -> str:
    return separator.join(f"{number:.0f}" for number in numbers)


def _measured(seen: Seen, watch: Watch, process_id: int, *, judged: bool) -> list[Promise]:
    """Checks the promises that need a long run."""
    slope, sizes = watch.slope(process_id), watch.sizes(process_id)
    medians = {name: statistics.median(seen.seconds.get(name, [0])) for name in CLIENTS}
    slowest = max(seconds for name, seconds in medians.items() if name.startswith("calm"))
    return [
        (
            f"memory grows by less than {SLOPE_BOUND} MiB a minute in the second half",
            f"{slope:.1f} ({sizes[0]:.0f} MiB at first, {sizes[-1]:.0f} at last)",
            slope < SLOPE_BOUND or not judged,
        ),
        (
            "who asks calmly waits less than who floods, for the same",
            f"{milliseconds(slowest)} ms, {milliseconds(medians['whole'])} ms",
            slowest < medians["whole"] or not judged,
        ),
    ]


def _clients_table(seen: Seen, num_workers: int) -> str:
    rows = []
    for name, kind in CLIENTS.items():
        counts = sorted((s, n) for (of, s), n in seen.statuses.items() if of == name)
        times = sorted(seen.seconds.get(name, [0]))
        answers = ", ".join(f"{status}: {number}" for status, number in counts)
        p95 = times[int(0.95 * (len(times) - 1))]
        median = milliseconds(statistics.median(times))
        number = kind.number_for(num_workers)
        rows.append([name, kind.key, number, answers, median, milliseconds(p95)])
    return table(["client", "key", "number", "answers", "median ms", "p95 ms"], rows)


def soak(seconds: float, num_workers: int, *, judged: bool) -> int:
    """Runs the soak test and prints it; returns 1 if a promise is broken."""
    BENCH_FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder), num_workers) as (server, redis, keys),
    ):
        workers = Workers(server, num_workers)
        workers.wait_until_loaded(lambda: read_metrics(server, keys["reader"]))
        seen, watch = asyncio.run(_run(workers, redis, keys, seconds))
        metrics = _metrics_at_rest(workers, redis, keys["reader"])
    promises = _promises(seen, watch, workers, metrics)
    promises += _measured(seen, watch, workers.process_ids[0], judged=judged)
    circumstances = f"{CAPACITY} sequences at once in each of {num_workers} workers"
    print(f"{seconds:.0f} seconds, {circumstances}, {os.cpu_count()} cores\n")
    print(_clients_table(seen, num_workers) + "\n")
    rows = [[what, value, "kept" if kept else "BROKEN"] for what, value, kept in promises]
    print(table(["promise", "seen", ""], rows))
    return 0 if all(kept for _, _, kept in promises) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_SECONDS} seconds, without a word on memory and latency",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="of several one is killed in the middle"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SIGTERM ends servers too
    seconds = QUICK_SECONDS if arguments.quick else 60 * arguments.minutes
    return soak(seconds, arguments.workers, judged=not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
