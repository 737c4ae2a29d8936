"""The playground in a real browser; each scenario is a module for node beside this file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.main import create_app
from tests.auth.test_api_keys import TEMPLATE
from tests.conftest import assert_nothing_is_left, create_settings
from tests.support.keys import bearer, create_key
from tests.support.servers import ROOT, LocalServer, serve_app

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
CLIENTS = ROOT / ".clients" / "node"
STEP_SECONDS = 0.01
"""Added to each step of the model, so that there is time to stop an answer."""


@pytest.fixture(scope="module")
def browser() -> str:
    """CI installs one, and playwright; elsewhere a test without them is skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or not (CLIENTS / "node_modules" / "axe-core").exists():
        message = "needs Chromium (Debian's package of that name) and `make clients`"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def storyteller() -> Iterator[LocalServer]:
    with serve_app(create_app(create_settings())) as server:
        server.slow_down(STEP_SECONDS)
        yield server
        assert_nothing_is_left(server)


def browse(scenario: str, browser: str, folder: Path, url: str, **environment: str) -> None:
    done = subprocess.run(
        ["node", Path(__file__).parent / f"{scenario}.mjs"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CLIENTS": str(CLIENTS),
            "SERVER_URL": url,
            "BROWSER": shutil.which(browser) or browser,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


SCENARIOS = [
    "batches", "chat", "tokens", "compare", "engine", "failures", "hostile", "looks", "thoughts",
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(storyteller, browser, tmp_path, scenario):
    browse(scenario, browser, tmp_path, storyteller.url)


def test_a_server_with_keys_is_asked_with_one(start_server, browser, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, "reader", "--scopes", "generate,metrics")
    server = start_server(auth="api_key", api_keys_file=file, chat_template=TEMPLATE)
    server.headers = bearer(key)
    browse("access", browser, tmp_path, server.url, KEY=key)


def test_a_model_without_template_continues_texts(start_server, browser, tmp_path):
    browse("without_template", browser, tmp_path, start_server().url)
