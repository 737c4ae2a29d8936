"""Servers for the tests of faults. After each test its server still serves others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from src.main import create_app
from tests.conftest import assert_nothing_is_left, create_settings, wait_until
from tests.faults.asking import TEMPLATE, post
from tests.support.servers import LocalServer, serve_app


def assert_serves(server: LocalServer) -> None:
    """Another client is served, and nothing is left of those before."""
    response = post(server)
    assert response.status_code == 200, response.text
    wait_until(lambda: server.engine.num_live == 0)


@contextmanager
def serving(model: object, send_buffer: int | None = None, **settings: object):
    """A server in this process on a real port; its model never generates an end token."""
    usual = {"model_name": str(model), "chat_template": TEMPLATE, "log_level": "warning"}
    app = create_app(create_settings(**usual | settings))
    with serve_app(app, send_buffer) as server:
        server.engine._lifecycle.loaded.eos_token_ids.clear()
        yield server
        assert_serves(server)
        assert_nothing_is_left(server)


@pytest.fixture(scope="module")
def shared(tiny_model: Callable[[], object]) -> Iterator[LocalServer]:
    with serving(tiny_model()) as server:
        yield server


@pytest.fixture
def server(shared: LocalServer) -> Iterator[LocalServer]:
    """A server that a module's tests share."""
    yield shared
    assert_serves(shared)


@pytest.fixture
def start(tiny_model: Callable[[], object]):
    """Returns what starts a server with settings of its own."""
    return lambda **settings: serving(settings.pop("model", tiny_model()), **settings)
