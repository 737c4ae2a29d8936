"""Measures the machine: `python -m benchmarks.peers.machine` prints JSON.

Bandwidth is that of reading a matrix larger than any cache. It is read by a product with a vector,
as a step of one sequence reads weights, or by a sum, whichever is faster. Arithmetic rates are
those of matrix products in float32 and with 8-bit integers. All are the best of some seconds, on
all cores.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.peers.records import Machine

LARGE = 2**14  # rows and columns of a float32 matrix of 1 GiB
MEDIUM = 2048
ENOUGH = 2  # seconds


def measure_machine() -> Machine:
    """Measures for some seconds."""
    large = torch.rand(LARGE, LARGE)
    vector = torch.rand(LARGE)
    reading = min(best_time(lambda: large @ vector), best_time(large.sum))
    medium = torch.rand(MEDIUM, MEDIUM)
    computing = best_time(lambda: medium @ medium)
    integers = torch.randint(-127, 128, (MEDIUM, MEDIUM), dtype=torch.int8)
    counting = best_time(lambda: torch._int_mm(integers, integers))
    return Machine(
        processor_name(),
        os.cpu_count() or 1,
        gb_per_second=round(large.nbytes / reading / 1e9, 1),
        gflop_per_second=round(2 * MEDIUM**3 / computing / 1e9, 1),
        int8_gop_per_second=round(2 * MEDIUM**3 / counting / 1e9, 1),
    )


def best_time(call: Callable[[], object]) -> float:
    """Returns the shortest of as many calls as fit into the time."""
    best = float("inf")
    deadline = time.perf_counter() + ENOUGH
    while (started := time.perf_counter()) < deadline:
        call()
        best = min(best, time.perf_counter() - started)
    return best


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    print(json.dumps(asdict(measure_machine())))
