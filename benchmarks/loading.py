"""Measures the start of the service: `python -m benchmarks.loading --model FOLDER_OR_FILE`.

While the model loads, /health is asked again and again, and the process's private memory is read.
Run it with the files in the page cache, on a machine with nothing else to do.
"""

import argparse
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx2
import psutil

from benchmarks.report import table
from benchmarks.servers import Server, serve_ours

PAUSE = 0.01  # seconds between two requests
FIRST_PHASE = re.compile(r"^(\S+) .*loading config and tokenizer: ([\d.]+) s", re.MULTILINE)
READY = re.compile(r"^(\S+) .*ready to serve", re.MULTILINE)


@dataclass
class Start:
    """Measurements of a start, until the service was ready."""

    peak_memory: float = 0
    latencies: list[float] = field(default_factory=list)
    cpu_seconds: float = 0
    memory: float = 0
    seconds: float = 0


def measure(model: Path, quantization: str) -> Start:
    """Starts the service and watches it until it is ready."""
    start = Start()
    with serve_ours(
        str(model), wait_for="/health/live", device="cpu", quantization=quantization, kv_cache_gb=1
    ) as server:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            while not ask(client, start):
                start.peak_memory = max(start.peak_memory, server.memory())
                time.sleep(PAUSE)
        times = psutil.Process(server.process_id).cpu_times()
        start.cpu_seconds = times.user + times.system
        start.memory = server.memory()
        start.seconds = seconds_after_imports(server)
    return start


def ask(client: httpx2.Client, start: Start) -> bool:
    """Asks once for the state; returns whether the model is loaded."""
    began_at = time.perf_counter()
    state = client.get("/health").json()["status"]
    start.latencies.append(time.perf_counter() - began_at)
    return bool(state == "healthy")


def seconds_after_imports(server: Server) -> float:
    """Returns the time from the first phase of loading until the service was ready."""
    assert server.log_path is not None
    while (ready := READY.search(server.log_path.read_text())) is None:
        time.sleep(PAUSE)  # the log says it a moment later than /health
    first = FIRST_PHASE.search(server.log_path.read_text())
    assert first is not None
    elapsed = datetime.fromisoformat(ready[1]) - datetime.fromisoformat(first[1])
    return elapsed.total_seconds() + float(first[2])


def main() -> None:
    """Prints one row for each start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder, or GGUF file")
    parser.add_argument("--quantization", nargs="+", default=["none", "int8"])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for _ in range(arguments.repeats):
        for quantization in arguments.quantization:
            start = measure(arguments.model.resolve(), quantization)
            longest = 1000 * max(start.latencies)
            figures = (start.seconds, start.cpu_seconds, start.peak_memory, start.memory, longest)
            rows.append([quantization, *(f"{figure:.3g}" for figure in figures)])
    columns = ["quantization", "s after imports", "CPU s", "peak MiB", "MiB", "longest /health ms"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
