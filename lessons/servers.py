"""Servers for the lessons: the service in a process of its own, on a free port of this machine."""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from lessons.run import ROOT
from src.auth.api_keys import APIKey, APIKeys, Scope, create_secret, sha256_of
from src.config import Settings

START_SECONDS = 120
SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)


@dataclass(eq=False)
class Server:
    """A server that was started.

    Args:
        url: its address.
        process: its process.
        log_path: file with its standard output and error.
    """

    url: str
    process: subprocess.Popen[bytes]
    log_path: Path
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=200)
        self._client = httpx.Client(base_url=self.url, timeout=60, limits=limits)

    @property
    def log(self) -> str:
        """Text of the log so far."""
        return self.log_path.read_text()

    def wait(self) -> "Server":
        """Waits until the server is ready, and returns it.

        Raises:
            RuntimeError: its process has ended, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.status("/health/ready") == 200:
                return self
            time.sleep(0.05)
        raise RuntimeError(f"The server is not ready:\n{self.log}")

    def status(self, path: str) -> int | None:
        """Returns the status of a GET, or None if there is no answer."""
        try:
            return httpx.get(self.url + path, timeout=10).status_code
        except httpx.TransportError:
            return None

    def get(self, path: str, key: str = "") -> httpx.Response:
        """Sends a GET, with a key or token if there is one."""
        return self._client.get(path, headers=_authorization(key))

    def post(
        self, path: str, body: dict[str, object], key: str = "", **headers: str
    ) -> httpx.Response:
        """Sends a body as JSON, with a key or token if there is one."""
        return self._client.post(path, json=body, headers=_authorization(key) | headers)

    def post_all(
        self, path: str, bodies: Sequence[dict[str, object]], key: str = ""
    ) -> list[tuple[httpx.Response, float]]:
        """Sends bodies at once; returns each answer with the seconds until it was complete."""
        started = time.perf_counter()

        def post(body: dict[str, object]) -> tuple[httpx.Response, float]:
            return self.post(path, body, key), time.perf_counter() - started

        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(post, bodies))

    def metrics(self, key: str = "") -> dict[str, float]:
        """Reads `/metrics`: names with their labels to values."""
        text = self.get("/metrics", key).text
        return {name: float(value) for name, value in SAMPLE.findall(text)}

    def wait_for(self, name: str, value: float, key: str = "") -> None:
        """Waits until a metric has a value."""
        deadline = time.monotonic() + START_SECONDS
        while self.metrics(key).get(name) != value:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not {value}")
            time.sleep(0.01)

    def stop(self) -> int:
        """Ends the server with SIGTERM if it runs; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """Waits until the process has ended; returns its exit status."""
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._client.close()


def start(*command: str, **settings: object) -> Server:
    """Starts the service, or another command of Python, and does not wait until it is ready.

    Args:
        command: arguments of Python; without any `-m src.main`.
        settings: settings in small letters, such as `max_batch_size=2`. Those of your environment
            and of your `.env` have no effect, and the model is storyteller.
    """
    folder = Path(tempfile.mkdtemp(prefix="lesson-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"model_name": "storyteller", "port": port, **settings}
    own = {name.upper() for name in Settings.model_fields}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("COV", "PYTEST", "OTEL_"))
    }
    environment |= {"PYTHONPATH": str(ROOT)}
    environment |= {name.upper(): str(value) for name, value in given.items()}
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - pages choose the command
            [sys.executable, *(command or ("-m", "src.main"))],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    atexit.register(_clean_up, process, folder)
    return Server(f"http://127.0.0.1:{port}", process, log_path)


def create_keys(names: Mapping[str, Mapping[str, object]]) -> tuple[dict[str, str], str]:
    """Creates API keys that may generate and read metrics.

    Args:
        names: names of the keys to further fields of `APIKey`, such as limits or a weight.

    Returns:
        The keys by their names, and the text of a file for `API_KEYS_FILE`.
    """
    secrets, records = {}, []
    for name, fields in names.items():
        key_id, secrets[name] = create_secret()
        known = {"id": key_id, "name": name, "sha256": sha256_of(secrets[name])}
        scopes = {"scopes": [Scope.GENERATE, Scope.METRICS], "created_at": datetime.now(UTC)}
        records.append(APIKey.model_validate(scopes | dict(fields) | known))
    return secrets, APIKeys(keys=records).dump()


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _clean_up(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
