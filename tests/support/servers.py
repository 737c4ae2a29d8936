"""Servers to ask: the service as a user would start it, and an app on a socket of this process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Mount

from src.inference import InferenceEngine
from src.server.connection import connection_class
from src.server.service import Service, service_of

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 120  # seconds; a test that needs more has failed


def parse_samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def parse_events(body: str) -> list[tuple[str, str]]:
    """Server-Sent Events as a browser reads them: (event, data) of each."""
    assert body.endswith("\n\n")
    events = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in re.split("\r\n|\r|\n", block):
            name, colon, value = line.partition(": ")
            assert colon, line
            fields.setdefault(name, []).append(value)
        assert fields.keys() <= {"event", "data"}
        (event,) = fields.get("event", ["message"])
        events.append((event, "\n".join(fields["data"])))
    return events


@dataclass
class Streamed:
    """A whole stream of `/generate`; reading it checks its shape."""

    deltas: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None

    @classmethod
    def read(cls, body: str) -> "Streamed":
        streamed = cls()
        *events, (last_event, last_data) = parse_events(body)
        for event, data in events:
            assert event == "message"
            streamed._add(json.loads(data))
        if last_event == "error":
            streamed.error = json.loads(last_data)["error"]
        else:
            assert (last_event, last_data) == ("message", "[DONE]")
            assert streamed.live == set()
        return streamed

    def _add(self, delta: dict[str, Any]) -> None:
        assert delta["index"] not in self.lasts, "nothing follows the last delta of a sequence"
        is_last = delta["finish_reason"] is not None
        assert is_last == ("tokens" in delta) == ("prompt_tokens" in delta)
        self.deltas.append(delta)

    @property
    def lasts(self) -> dict[int, dict[str, Any]]:
        """The last delta of each sequence that came to its end."""
        return {delta["index"]: delta for delta in self.deltas if delta["finish_reason"]}

    @property
    def live(self) -> set[int]:
        return {delta["index"] for delta in self.deltas} - self.lasts.keys()

    @property
    def texts(self) -> dict[int, str]:
        texts: dict[int, str] = {}
        for delta in self.deltas:
            texts[delta["index"]] = texts.get(delta["index"], "") + delta["text"]
        return texts

    def generated(self) -> list[dict[str, Any]]:
        """Returns the answer that the same request gives without a stream."""
        texts = self.texts
        return [
            {"text": texts[index]}
            | {key: self.lasts[index][key] for key in ("tokens", "finish_reason")}
            | ({"logprobs": logprobs} if (logprobs := self.logprobs(index)) else {})
            for index in sorted(texts)
        ]

    def logprobs(self, index: int = 0) -> list[dict[str, Any]]:
        return [
            one
            for delta in self.deltas
            if delta["index"] == index
            for one in delta.get("logprobs", [])
        ]


class Asked:
    """Requests to a server by its address."""

    url: str
    headers: Mapping[str, str] = MappingProxyType({})

    def post(self, body: dict[str, object], timeout: float = 60, **options) -> httpx2.Response:
        options = {"headers": self.headers} | options
        return httpx2.post(self.url + "/generate", json=body, timeout=timeout, **options)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=self.headers, timeout=60)

    def stream(self, body: dict[str, object], timeout: float = 60) -> Streamed:
        """Reads a whole stream."""
        response = self.post(body | {"stream": True}, timeout)
        assert response.status_code == 200, response.text
        return Streamed.read(response.text)

    def streams(self, bodies: list[dict[str, object]]) -> list[Streamed]:
        """Reads many streams at once."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.stream, bodies))

    def samples(self) -> dict[tuple[str, ...], float]:
        """All samples of /metrics: (name, label values…) to value."""
        return parse_samples(self.get("/metrics").text)

    def sample(self, *key: str) -> float:
        """One sample; 0 if there is none yet."""
        return self.samples().get(key, 0.0)


@dataclass
class Server(Asked):
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
        "AUTH": "none",
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


def workers_of(server: Server) -> list[int]:
    """The processes that serve; the supervisor has one more child, which looks after resources."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    is_worker = "spawn_main"
    return [
        int(child) for child in children if is_worker in Path(f"/proc/{child}/cmdline").read_text()
    ]


class Gate:
    """Holds a model's steps back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._permits = 0
        self._is_open = False
        self._is_held = False

    def forward(self, real: Callable[..., object], *args: object, **kwargs: object) -> object:
        with self._changed:
            self._is_held = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open or self._permits > 0)
            self._permits -= 1
            self._is_held = False
        return real(*args, **kwargs)

    def wait(self) -> None:
        """Returns when a step is held back."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_held and self._permits == 0, 60)

    def permit(self, num_steps: int) -> None:
        """Lets so many steps pass."""
        with self._changed:
            self._permits += num_steps
            self._changed.notify_all()

    def let(self, num_steps: int) -> None:
        """Lets so many steps pass, and returns when one more is held back."""
        self.permit(num_steps)
        self.wait()

    def open(self) -> None:
        """Lets all steps pass from now on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


@dataclass
class LocalServer(Asked):
    """An app on a socket of this process, so that a test can reach into its model."""

    app: FastAPI
    url: str
    gates: list[Gate] = field(default_factory=list)

    @property
    def service(self) -> Service:
        return service_of(self.app)

    @property
    def engine(self) -> InferenceEngine:
        return self.service.engine

    def break_model(self, forward: Callable[..., object]) -> None:
        """Puts `forward(real, *args, **kwargs)` in the place of the model's own."""
        model = self.engine._lifecycle.loaded.model
        real = model.forward
        model.forward = lambda *args, **kwargs: forward(real, *args, **kwargs)

    def slow_down(self, seconds: float) -> None:
        """Makes each step of the model take longer."""

        def forward(real: Callable[..., object], *args: object, **kwargs: object) -> object:
            time.sleep(seconds)
            return real(*args, **kwargs)

        self.break_model(forward)

    def hold(self) -> Gate:
        """From now on the model makes the steps that it is let make, and no more."""
        gate = Gate()
        self.gates.append(gate)
        self.break_model(gate.forward)
        return gate


@contextmanager
def broken_metrics(service: Service) -> Iterator[None]:
    """Makes the route /metrics of a service raise meanwhile."""
    service.http_metrics.render = None
    yield
    del service.http_metrics.render


def routes_of(server: LocalServer) -> Iterator[tuple[str, str]]:
    """Method and path of all that the app answers, the documented and the hidden."""
    for route in iter_route_contexts(server.app.routes):
        if isinstance(route.original_route, Mount):
            yield "GET", route.path + "/swagger-ui.css"
        else:
            yield from ((method, route.path) for method in route.methods)


@contextmanager
def serve_app(app: FastAPI, send_buffer: int | None = None) -> Iterator[LocalServer]:
    """Serves an app with uvicorn in a thread, and returns when it is ready.

    Args:
        app: as `create_app` makes it.
        send_buffer: bytes that the operating system holds for a client; None is its own choice.
    """
    with socket.socket() as listener:
        if send_buffer is not None:  # connections take it over
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        listener.bind(("127.0.0.1", 0))
        server = LocalServer(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            http=connection_class(server.service.settings, server.service.policies),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not (running.started and server.service.is_loaded):
                assert thread.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield server
        finally:
            for gate in server.gates:
                gate.open()
            running.should_exit = True
            thread.join(START_TIMEOUT)
            assert not thread.is_alive()
