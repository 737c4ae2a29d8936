"""The service under `benchmarks.soak` with its keys, and the Redis that counts its limits."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks.servers import Server, free_port, serve_ours
from benchmarks.soak_clients import CAPACITY, CLIENTS, MODEL, RECEIVE_TIMEOUT
from benchmarks.worker import ROOT, stop
from benchmarks.workload import BenchmarkError

LIMITED_REQUESTS = 1  # a minute
MANY = 1000  # concurrent requests: counted, and never reached
KEYS = {kind.key: "generate" for kind in CLIENTS.values()} | {"reader": "metrics"}


class Redis:
    """A Redis that can be killed and restarted."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            raise BenchmarkError("redis-server is needed: Debian's package of that name")
        self.port = free_port()
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=self._folder, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        stop(self._process)

    def num_running(self) -> int:
        """Returns the number of concurrent requests that it counts."""
        with redis.Redis(port=self.port) as client:
            return sum(client.zcard(key) for key in client.scan_iter("LIMITS:concurrent/*"))


def create_keys(file: Path) -> dict[str, str]:
    """Creates the keys with the service's own command."""
    keys = {}
    for name, scopes in KEYS.items():
        limits = ["--concurrent", str(MANY)]
        limits += ["--requests", str(LIMITED_REQUESTS)] if name == "limited" else []
        command = [sys.executable, "-m", "src", "keys", "--file", str(file), "create", name]
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, "--scopes", scopes, *limits],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        keys[name] = done.stdout.strip()
    return keys


@contextmanager
def serve(folder: Path, num_workers: int) -> Iterator[tuple[Server, Redis, dict[str, str]]]:
    """Runs the service with its Redis; yields both, and the keys by name."""
    redis = Redis(folder)
    try:
        keys = create_keys(folder / "keys.json")
        with serve_ours(
            MODEL,
            workers=num_workers,
            max_batch_size=CAPACITY,
            auth="api_key",
            api_keys_file=folder / "keys.json",
            rate_limit_address_requests=10**9,
            rate_limit_storage=f"redis://127.0.0.1:{redis.port}/0",
            receive_timeout_seconds=RECEIVE_TIMEOUT,
            log_level="WARNING",
        ) as server:
            yield server, redis, keys
    finally:
        redis.stop()
