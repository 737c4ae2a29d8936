"""Celery workers of batches, as an operator starts them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import environment


@dataclass
class CeleryWorker:
    """A worker with one process for tasks."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def num_tasks(self) -> int:
        """Chunks that it has begun."""
        return self.log.count(" received")

    def kill(self) -> None:
        """Ends the worker and the process of its task at once (SIGKILL)."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def celery_workers(folder: Path, count: int, **settings: object) -> Iterator[list[CeleryWorker]]:
    """Runs workers, which may not be ready yet."""
    workers = []
    for number in range(count):
        log_path = folder / f"worker-{number}.log"
        command = ["-m", "celery", "-A", "src.celery_queue.app", "worker", "--concurrency", "1"]
        options = ["--loglevel", "INFO", "--without-mingle", "-n", f"worker-{number}"]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *command, *options],
                cwd=folder,
                env=environment(**settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        workers.append(CeleryWorker(process, log_path))
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
