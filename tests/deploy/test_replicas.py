"""Replicas behind a real nginx, with the configuration of Compose's profile `scale`."""

import asyncio
import os
import re
import shutil
import signal
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from threading import Event

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.rolling_update import Servers, until_ready
from tests.conftest import wait_until
from tests.support.servers import ROOT, Server, Streamed, free_port, parse_samples, serve

NUM_CLIENTS = 4
LOOPBACK = IPv4Address("127.0.0.1")
BODY = {"prompt": "Once upon a time", "max_length": 20, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a request.

    Args:
        begun_at: on the monotonic clock, in seconds.
        status: of the answer; None if the connection broke.
    """

    begun_at: float
    status: int | None


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Servers, list[int]]]:
    """Two replicas that listen once they are loaded, nginx in front of them, and their ports."""
    if shutil.which("nginx") is None:
        message = "needs nginx: Debian's package nginx-light"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    ports = [free_port(), free_port()]
    create_tls_folder(tmp_path / "tls", free_port())
    servers = Servers(tmp_path, free_port(), ports, {"LISTEN_WHEN_LOADED": "true"})
    try:
        asyncio.run(servers.start_all())
        yield servers, ports
    finally:
        servers.stop_all()


def create_tls_folder(folder: Path, port: int) -> None:
    """Writes tls.conf for this port, and a self-signed certificate of 127.0.0.1 with its key."""
    folder.mkdir()
    text = (ROOT / "deploy" / "nginx" / "tls.conf").read_text()
    (folder / "tls.conf").write_text(text.replace("listen 8443", f"listen 127.0.0.1:{port}"))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def ask_over_tls(folder: Path) -> httpx2.Response:
    """Streams a generation through nginx over TLS, with its certificate verified."""
    (port,) = re.findall(r"listen 127.0.0.1:(\d+)", (folder / "tls.conf").read_text())
    context = ssl.create_default_context(cafile=folder / "server.crt")
    url = f"https://127.0.0.1:{port}/generate"
    return httpx2.post(url, json=BODY | {"stream": True}, verify=context, timeout=60)


def ask_until(stop: Event, url: str) -> list[Outcome]:
    """Sends requests one after another, each on a connection of its own."""
    outcomes = []
    while not stop.is_set():
        begun_at = time.monotonic()
        try:
            status = httpx2.post(f"{url}/generate", json=BODY, timeout=60).status_code
        except httpx2.TransportError:
            status = None
        outcomes.append(Outcome(begun_at, status))
    return outcomes


def num_answered(port: int) -> float:
    samples = parse_samples(httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text)
    return samples.get(("inference_requests_total", "/generate", "success"), 0)


def test_a_killed_replica_breaks_the_requests_in_flight_and_no_others(replicas, tmp_path):
    """A stream over TLS comes first: one start of the servers serves both tests."""
    servers, ports = replicas
    answer = ask_over_tls(tmp_path / "tls")
    assert Streamed.read(answer.text).lasts[0]["tokens"] == BODY["max_length"]
    stop = Event()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(ask_until, stop, servers.url) for _ in range(NUM_CLIENTS)]
        try:
            wait_until(lambda: all(num_answered(port) > 1 for port in ports))
            servers.kill(ports[0])
            dead_at = time.monotonic()
            servers.start(ports[0])
            asyncio.run(until_ready(ports[0]))
            wait_until(lambda: num_answered(ports[0]) > 1)  # nginx uses it again
        finally:
            stop.set()
    outcomes = [outcome for client in clients for outcome in client.result()]
    failed = [outcome for outcome in outcomes if outcome.status != 200]
    assert len(failed) <= NUM_CLIENTS
    assert [outcome for outcome in failed if outcome.begun_at > dead_at] == []
    assert sum(outcome.begun_at > dead_at for outcome in outcomes) > NUM_CLIENTS


def statuses_until_ready(server: Server) -> set[int | None]:
    """Returns the statuses of /health/ready from the start to 200; None while connections are
    refused.
    """
    statuses: set[int | None] = set()
    deadline = time.monotonic() + 120
    while 200 not in statuses:
        assert time.monotonic() < deadline, server.log
        try:
            statuses.add(httpx2.get(f"{server.url}/health/ready", timeout=60).status_code)
        except httpx2.ConnectError:
            statuses.add(None)
    return statuses


@pytest.mark.parametrize("num_workers", [1, 2])
def test_connections_are_refused_until_the_model_is_loaded(tmp_path, num_workers):
    with serve(tmp_path, listen_when_loaded=True, workers=num_workers) as server:
        assert statuses_until_ready(server) == {None, 200}
        assert server.stop() == 0, server.log


def test_a_loading_process_ends_at_a_signal(tmp_path):
    with serve(tmp_path, listen_when_loaded=True) as server:
        wait_until(lambda: "loading the model" in server.log)
        assert server.stop(signal.SIGTERM) == 0, server.log
        assert "Traceback" not in server.log
