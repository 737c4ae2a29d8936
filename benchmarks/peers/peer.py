"""Main loop of a peer's worker: `python -m benchmarks.peers.run_PEER MODEL --precision P
[--greedy]`.

It runs with the python of the peer's environment, so it imports the standard library alone. A peer
is a function that generates for a batch of prompts. It serves jobs as `benchmarks.worker`
describes. With --greedy it reads requests as JSON from standard input and prints the tokens of
each, for the comparison with HuggingFace.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.worker import serve_jobs
from benchmarks.workload import Job, Request
from src.cli.measurement import Trace

NUM_THREADS = os.cpu_count() or 1
PRECISIONS = ("float32", "8-bit")

Generate = Callable[[list[Request]], list[list[int]]]
"""Generates for a batch of equal requests with different prompts. Returns each one's new tokens,
after it has turned them into text.
"""


def run_in_batches(job: Job, generate: Generate) -> list[Trace]:
    """Runs a job's requests in batches as large as its concurrency; a batch ends together."""
    traces = []
    began = time.perf_counter()
    for start in range(0, len(job.requests), job.concurrency):
        sent = time.perf_counter() - began
        results = generate(job.requests[start : start + job.concurrency])
        ended = time.perf_counter() - began
        traces += [Trace(sent, [ended], len(token_ids), ended) for token_ids in results]
    return traces


def main(description: str | None, load: Callable[[Path, str], Generate]) -> None:
    """Command line of every peer; `load` takes a model's folder and a precision."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--greedy", action="store_true")
    arguments = parser.parse_args()
    generate = load(arguments.model, arguments.precision)
    if arguments.greedy:
        print(json.dumps(generate(Job.from_json(sys.stdin.read()).requests)))
    else:
        serve_jobs(lambda job: run_in_batches(job, generate))
