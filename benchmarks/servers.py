"""Measured servers, each in a process of its own on a free port of the loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2

from benchmarks.bench_model import BENCH_FOLDER
from benchmarks.worker import ROOT, stop
from benchmarks.workload import BenchmarkError
from src.config import Settings

START_TIMEOUT = 300  # seconds; loading a model from a slow disk takes most of a minute
TRANSFORMERS = BENCH_FOLDER / "transformers-serve" / "bin" / "transformers"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    url: str
    process_id: int
    log_path: Path | None = None

    def memory(self, kind: Literal["RssAnon", "RssFile"] = "RssAnon") -> float:
        """Returns the private memory, or the mapped files, of the process, in MiB."""
        status = Path(f"/proc/{self.process_id}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{kind}:"))
        return int(line.split()[1]) / 1024

    def sample(self, name: str) -> float:
        """Returns the value of a metric without labels."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        return float(line.split()[1])


@contextmanager
def serve_ours(
    model: str, *, wait_for: str = "/health/ready", **settings: object
) -> Iterator[Server]:
    """Runs this service with these settings and its defaults, without this machine's settings."""
    port = free_port()
    fixed = {
        "MODEL_NAME": model,
        "SERVED_MODEL_NAME": model,  # a folder's path: the name that other servers give it
        "PORT": port,
        "RATE_LIMIT_REQUESTS": 10**6,
        "TIMEOUT_SECONDS": 3600,
        "QUEUE_TIMEOUT_SECONDS": 3600,
        "PYTHONPATH": ROOT,
    }
    chosen = fixed | {name.upper(): value for name, value in settings.items()}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields
    }
    environment = inherited | {name: str(value) for name, value in chosen.items()}
    command = [sys.executable, "-m", "src.main"]
    with _run(command, environment, port, wait_for) as server:
        yield server


@contextmanager
def serve_transformers(model: str) -> Iterator[Server]:
    """Runs `transformers serve --continuous-batching`, which `make bench` installs."""
    if not TRANSFORMERS.exists():
        raise BenchmarkError(f"{TRANSFORMERS} is not there: `make bench` installs it")
    port = free_port()
    options = ["--continuous-batching", "--host", "127.0.0.1", "--default-seed", "0"]
    command = [str(TRANSFORMERS), "serve", model, *options, "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1"}  # the model is a folder; nothing is downloaded
    with _run(command, os.environ | offline, port, "/health") as server:
        yield server


@contextmanager
def serve_llama_cpp(python: Path, model: Path) -> Iterator[Server]:
    """Runs `llama_cpp.server` on a GGUF file, with the python of its environment."""
    port = free_port()
    options = {
        "model": model,
        "host": "127.0.0.1",
        "port": port,
        "n_threads": os.cpu_count(),
        "n_ctx": 1024,
        "interrupt_requests": False,  # else each request cancels the one before
    }
    flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    command = [str(python), "-m", "llama_cpp.server", *flags]
    with _run(command, dict(os.environ), port, "/v1/models") as server:
        yield server


@contextmanager
def serve_llama_server(
    program: Path, model: Path, num_slots: int, context: int
) -> Iterator[Server]:
    """Runs llama.cpp's own server on a GGUF file, with a context of this length for each slot."""
    port = free_port()
    sizes = ["--parallel", str(num_slots), "--ctx-size", str(num_slots * context)]
    threads = ["--threads", str(os.cpu_count())]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(program), "--model", str(model), *sizes, *threads, *address]
    with _run(command, dict(os.environ), port, "/health") as server:
        yield server


@contextmanager
def _run(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[Server]:
    """Starts a server, waits until a GET of `path` returns 200, and ends it with the context."""
    BENCH_FOLDER.mkdir(exist_ok=True)
    log_path = BENCH_FOLDER / f"server-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=BENCH_FOLDER,  # a folder without .env
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # SIGINT is handled here, which ends it
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url + path, log_path)
        yield Server(url, process.pid, log_path)
    finally:
        stop(process)
    log_path.unlink()  # the log stays only after a failure


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url, timeout=10).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise BenchmarkError(f"{process.args!r} is not ready:\n{log_path.read_text()[-3000:]}")


def free_port() -> int:
    """Returns a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
