"""The container image that IMAGE names, as `make image-test` built it, run as in a cluster.

Without IMAGE these tests are skipped.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import httpx2
import pytest

from src import __version__
from tests.conftest import wait_until
from tests.support.servers import ROOT, START_TIMEOUT, Asked, Streamed

IMAGE = os.environ.get("IMAGE", "")
pytestmark = pytest.mark.skipif(not IMAGE, reason="make image-test sets IMAGE")

HARDENED = [
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=1500m",
    "--memory-swap=1500m",
    "--cpus=2",
    "--pids-limit=256",
]
GENERATION = {"prompt": "Once upon a time", "max_length": 20, "seed": 1}
COMPLETION = {"model": "storyteller", "prompt": "Once", "max_tokens": 5}
CHAT = {"model": "storyteller", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
COUNTED = {key: CHAT[key] for key in ("model", "messages")}
RERANK = {"model": "storyteller", "query": "Once", "documents": ["upon", "a time"]}
SCORE = {"model": "storyteller", "text_1": "Once", "text_2": "upon"}
QUESTION = {"type": "predicate", "instructions": "It is a story."}
DECISION = {"model": "storyteller", "input": "Once", "questions": [QUESTION]}
STORED = ("/v1/files", "/v1/batches", "/v1/responses/")
"""Beginnings of paths that need something stored before."""

ENDPOINTS: dict[str, tuple[str, str, object]] = {
    "/": ("GET", "/", None),
    "/generate": ("POST", "/generate", GENERATION),
    "/generate/batch": ("POST", "/generate/batch", {"prompts": ["Once"], "max_length": 5}),
    "/v1/completions": ("POST", "/v1/completions", COMPLETION),
    "/v1/chat/completions": ("POST", "/v1/chat/completions", CHAT),
    "/v1/responses": ("POST", "/v1/responses", {"model": "storyteller", "input": "Hello"}),
    "/v1/embeddings": ("POST", "/v1/embeddings", {"model": "storyteller", "input": "Once"}),
    "/rerank": ("POST", "/rerank", RERANK),
    "/v1/rerank": ("POST", "/v1/rerank", RERANK),
    "/v2/rerank": ("POST", "/v2/rerank", RERANK),
    "/score": ("POST", "/score", SCORE),
    "/v1/score": ("POST", "/v1/score", SCORE),
    "/v1/decisions": ("POST", "/v1/decisions", DECISION),
    "/v1/messages": ("POST", "/v1/messages", CHAT),
    "/v1/messages/count_tokens": ("POST", "/v1/messages/count_tokens", COUNTED),
    "/v1/models": ("GET", "/v1/models", None),
    "/v1/models/{model_id}": ("GET", "/v1/models/storyteller", None),
    "/tokenize": ("POST", "/tokenize", {"prompt": "Once"}),
    "/detokenize": ("POST", "/detokenize", {"tokens": [5, 6]}),
    "/tokenizer_info": ("GET", "/tokenizer_info", None),
    "/health": ("GET", "/health", None),
    "/health/live": ("GET", "/health/live", None),
    "/health/ready": ("GET", "/health/ready", None),
    "/metrics": ("GET", "/metrics", None),
}


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], check=check, capture_output=True, text=True, timeout=300
    )


@dataclass
class Container(Asked):
    """A running container of the image."""

    name: str
    url: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", self.name, *command, check=False)

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.name).stdout.strip()

    def wait_for_health(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while (health := self.inspect("{{.State.Health.Status}}")) != "healthy":
            assert time.monotonic() < deadline, docker("logs", self.name)
            assert self.inspect("{{.State.Running}}") == "true", docker("logs", self.name)
            assert health == "starting"
            time.sleep(0.2)


@contextmanager
def run(*volumes: str, **settings: object) -> Iterator[Container]:
    """Runs the image until it is healthy, with limits and without rights, and removes it after."""
    port = str(settings.get("port", 8000))
    options = [f"--env={name.upper()}={value}" for name, value in settings.items()]
    options += [f"--volume={volume}" for volume in volumes]
    publish = f"--publish=127.0.0.1::{port}"
    name = docker("run", "--detach", *HARDENED, publish, *options, IMAGE).stdout.strip()
    try:
        address = docker("port", name, port).stdout.splitlines()[0]
        container = Container(name, f"http://{address}")
        container.wait_for_health()
        yield container
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with run(rate_limit_requests=10**6) as container:
        yield container


def test_runs_without_root_on_a_file_system_that_it_cannot_write(container):
    assert container.run("id", "-u").stdout == "10001\n"
    for path in ("/app/src/x", "/x", "/app/venv/x"):
        assert container.run("touch", path).returncode != 0
    assert container.run("touch", "/models/x", "/tmp/x").returncode == 0
    assert container.run("rm", "/models/x").returncode == 0


def test_has_no_compiler_and_no_installer_of_its_own(container):
    for tool in ("gcc", "cc", "g++", "c++", "clang", "make", "ld", "as", "uv"):
        assert container.run("sh", "-c", f"command -v {tool}").returncode != 0, tool
    assert container.run("python", "-m", "pip", "--version").returncode != 0
    assert container.run("ls", "/wheels").returncode != 0


def test_contains_bytecode_code_and_bundled_model_alone(container):
    assert container.run("ls", "/app").stdout.split() == ["LICENSE", "src", "venv"]
    compiled = container.run("find", "/app/src", "-name", "*.pyc").stdout.split()
    sources = container.run("find", "/app/src", "-name", "*.py").stdout.split()
    assert len(compiled) == len(sources) > 30
    assert container.run("ls", "/app/src/bundled/storyteller/model.safetensors").returncode == 0


def test_contains_the_locked_packages_alone(container):
    """torch has its version from pyproject.toml; CUDA's packages have theirs from torch."""
    program = (
        "from importlib.metadata import distributions\n"
        "for one in distributions(): print(one.name, one.version)"
    )
    lines = container.run("python", "-c", program).stdout.splitlines()
    found = map(str.split, lines)
    installed = {(re.sub("[-_.]+", "-", name).lower(), version) for name, version in found}
    lock = (ROOT / "requirements.lock").read_text()
    unlocked = installed - set(re.findall(r"^(\S+)==(\S+)", lock, re.MULTILINE))
    unlocked = {one for one in unlocked if not one[0].startswith(("nvidia-", "cuda-", "triton"))}
    ((name, version),) = unlocked
    assert name == "torch"
    assert f'"torch=={version.partition("+")[0]}"' in (ROOT / "pyproject.toml").read_text()
    assert "pytest" not in dict(installed)


def test_has_labels():
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", IMAGE).stdout)
    prefix = "org.opencontainers.image."
    assert labels[prefix + "version"] == __version__
    assert labels[prefix + "licenses"] == "MIT"
    assert re.fullmatch("[0-9a-f]{40}", labels[prefix + "revision"])


def test_every_endpoint_answers(container):
    described = httpx2.get(container.url + "/openapi.json").json()["paths"]
    stored = {path for path in described if path.startswith(STORED)}
    assert described.keys() - stored == ENDPOINTS.keys()
    for method, path, body in ENDPOINTS.values():
        response = httpx2.request(method, container.url + path, json=body, timeout=60)
        assert response.status_code == 200, (path, response.text)
    page = httpx2.get(container.url + "/docs")
    assert page.status_code == 200
    (script,) = re.findall(r'src="(/[^"]+\.js)"', page.text)
    assert httpx2.get(container.url + script).status_code == 200
    assert (
        container.stream(GENERATION).generated() == container.post(GENERATION).json()["generated"]
    )


@pytest.fixture
def volume() -> Iterator[str]:
    name = docker("volume", "create").stdout.strip()
    yield name
    docker("volume", "rm", name)


def test_keys_in_a_volume_are_required_and_their_usage_is_logged(volume):
    """Both folders belong to the image's user; all others are read-only."""
    make = [*HARDENED, f"--volume={volume}:/keys", "--env=API_KEYS_FILE=/keys/keys.json", IMAGE]
    key = docker("run", "--rm", *make, "python", "-m", "src", "keys", "create", "a").stdout.strip()
    settings = {"auth": "api_key", "api_keys_file": "/keys/keys.json", "usage_log": "/usage/log"}
    with run(f"{volume}:/keys:ro", "/usage", **settings) as asked:
        assert asked.post(GENERATION).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert asked.post(GENERATION, headers=headers).status_code == 200
        assert asked.run("touch", "/keys/x").returncode != 0
        wait_until(lambda: asked.run("cat", "/usage/log").stdout)
        assert json.loads(asked.run("cat", "/usage/log").stdout)["key"] == key.split("_")[1]


def test_a_stream_ends_properly_when_the_container_is_stopped():
    """`docker stop` sends SIGTERM; PORT is the port of the server and of its health check."""
    with run(port=9000, timeout_seconds=300, shutdown_grace_seconds=300) as stopped:
        body = {"prompt": "Once", "max_length": 400, "ignore_eos": True, "stream": True}
        with httpx2.stream("POST", stopped.url + "/generate", json=body, timeout=300) as response:
            chunks = response.iter_text()
            text = next(chunks)
            stop = Thread(target=docker, args=("stop", "--time", "300", stopped.name))
            stop.start()
            text += "".join(chunks)
        stop.join()
        (last,) = Streamed.read(text).lasts.values()
        assert (last["finish_reason"], last["tokens"]) == ("length", 400)
        assert stopped.inspect("{{.State.ExitCode}}") == "0"
        logs = docker("logs", stopped.name)
        assert "Shutting down" in logs.stdout + logs.stderr


def test_an_invalid_setting_ends_the_start():
    refused = docker("run", "--rm", *HARDENED, "--env=MAX_LENGTH=0", IMAGE, check=False)
    assert refused.returncode == 1
    assert "MAX_LENGTH=0" in refused.stdout + refused.stderr
