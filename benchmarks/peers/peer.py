"""What a peer's worker is: `python -m benchmarks.peers.run_PEER MODEL --precision P [--greedy]`.

It runs with the python of the peer's environment, so here is nothing but the standard library. A
peer is a function that generates for a batch of prompts at once. It serves jobs as
`benchmarks.worker` says, or, with --greedy, reads requests in JSON from standard input and prints
the tokens of each, to compare them with HuggingFace's.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.worker import serve_jobs
from benchmarks.workload import Job, Request, Trace

NUM_THREADS = os.cpu_count() or 1
PRECISIONS = ("float32", "8-bit")

Generate = Callable[[list[Request]], list[list[int]]]
"""Takes a batch that is alike in all but its prompts; returns each one's new tokens, which it has
also turned into text."""


def run_in_batches(job: Job, generate: Generate) -> list[Trace]:
    """Runs a job's requests in batches as large as its concurrency; all of one end together."""
    traces = []
    began = time.perf_counter()
    for start in range(0, len(job.requests), job.concurrency):
        sent = time.perf_counter() - began
        results = generate(job.requests[start : start + job.concurrency])
        ended = time.perf_counter() - began
        traces += [Trace(sent, [ended], len(token_ids), ended) for token_ids in results]
    return traces


def main(description: str | None, load: Callable[[Path, str], Generate]) -> None:
    """The command of every peer; `load` takes a model's folder and a precision."""
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
