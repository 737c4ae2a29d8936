"""Models, apps and servers that many tests share."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from src.config import Settings
from src.main import create_app
from tests.servers import Server, serve
from tests.tiny_models import create_model_folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a tiny random model of an architecture, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str = "gpt2") -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = create_model_folder(folder, architecture)
        return made[architecture]

    return get


def create_settings(**values: object) -> Settings:
    """Settings that neither this machine's environment nor an `.env` can change."""
    defaults = {"model_name": "storyteller", "rate_limit_requests": 10**6}
    return Settings(_env_file=None, **(defaults | values))  # type: ignore[call-arg]


@pytest.fixture
def start_client() -> Iterator[Callable[..., TestClient]]:
    """Returns a client of an app with these settings, in this process, when its model is loaded."""
    with ExitStack() as stack:

        def start(**values: object) -> TestClient:
            client = TestClient(create_app(create_settings(**values)))
            stack.enter_context(client)
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            return client

        yield start


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """A client of the app on the bundled model; after all tests no sequence may be left over."""
    with TestClient(create_app(create_settings())) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client
        wait_until(lambda: client.app.state.engine.num_live == 0)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server on the bundled model, for tests that leave it as it was."""
    with serve(tmp_path_factory.mktemp("server")) as server:
        server.wait_until("/health/ready")
        yield server


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
