"""Starts the service as a user would, in a process of its own, on a free port of the loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 120  # seconds; a test that needs more has failed


@dataclass
class Server:
    """A running service."""

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until(self, path: str, status_code: int = 200) -> None:
        """Returns when a GET of `path` answers so."""
        deadline = time.monotonic() + START_TIMEOUT
        with httpx2.Client(base_url=self.url, timeout=10) as client:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, self.log
                try:
                    if client.get(path).status_code == status_code:
                        return
                except httpx2.TransportError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status_code}:\n{self.log}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_TIMEOUT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings, and no others of ours."""
    return os.environ | {
        "MODEL_NAME": "storyteller",
        "RATE_LIMIT_REQUESTS": "1000000",
        "PYTHONPATH": str(ROOT),
        **{name.upper(): str(value) for name, value in settings.items()},
    }


@contextmanager
def serve(
    folder: Path, command: tuple[str, ...] = ("-m", "src.main"), **settings: object
) -> Iterator[Server]:
    """Runs the service from `folder` (where no `.env` is) and ends it with SIGTERM.

    It may not be ready yet: `wait_until("/health/ready")`.
    """
    port = settings.setdefault("port", free_port())
    log_path = folder / f"server-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment(**settings),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log_path)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
