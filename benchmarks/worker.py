"""Processes that run jobs: jobs go to standard input, traces come from standard output.

Each measured system has a process of its own. Two models in one process have two pools of OpenMP
threads, which slow each other down; clients in the server's process would use its event loop.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.workload import BenchmarkError, Job, check
from src.cli.measurement import Trace

ROOT = Path(__file__).parent.parent
JOB_TIMEOUT = 900  # seconds; the slowest system needs two minutes for the largest job
STOP_TIMEOUT = 30
READY = "ready"

Run = Callable[[Job], list[Trace]]
"""Runs a job on a system and returns checked traces; raises BenchmarkError."""


def serve_jobs(run: Run) -> None:
    """Main loop of a worker: reports that it is ready, then answers each job."""
    # Libraries may print; answers have a channel of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(READY, file=answers)
    for line in sys.stdin:
        traces = run(Job.from_json(line))
        print(json.dumps([asdict(trace) for trace in traces]), file=answers)


@contextmanager
def start_worker(
    module: str, *arguments: str, python: str = sys.executable, **environment: str
) -> Iterator[Run]:
    """Runs `python -m module` while the context lasts."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # SIGINT is handled here, which ends it
    )
    try:
        if _read_line(process).strip() != READY:
            raise BenchmarkError(f"{module} did not start; see above")
        yield lambda job: _run(process, job)
    finally:
        stop(process)


def _run(process: subprocess.Popen[str], job: Job) -> list[Trace]:
    assert process.stdin is not None
    line = ""
    with suppress(BrokenPipeError):
        process.stdin.write(job.to_json() + "\n")
        process.stdin.flush()
        line = _read_line(process)
    if not line:
        raise BenchmarkError(f"{process.args!r} ended, or took more than {JOB_TIMEOUT} s for a job")
    traces = [Trace(**raw) for raw in json.loads(line)]
    check(job, traces)
    return traces


def _read_line(process: subprocess.Popen[str]) -> str:
    """Returns the next line; empty if the process has ended, or is ended because it is late."""
    assert process.stdout is not None
    watchdog = threading.Timer(JOB_TIMEOUT, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def stop(process: subprocess.Popen[Any]) -> None:
    """Terminates a process, then kills it."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
