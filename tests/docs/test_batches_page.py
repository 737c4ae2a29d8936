"""The examples of docs/batches.md run as they are shown."""

import re
import subprocess
import sys

import pytest

from src.main import create_app
from tests.conftest import create_settings
from tests.support.servers import ROOT, serve_app

PAGE = (ROOT / "docs" / "batches.md").read_text()
SHELL, *_ = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
PYTHON, BACKGROUND = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def page_server(tmp_path_factory):
    settings = create_settings(batch_dir=tmp_path_factory.mktemp("page") / "batches")
    with serve_app(create_app(settings)) as server:
        yield server


def test_the_shown_commands_answer_a_file(page_server, tmp_path):
    for command in (["bash", "-ec", SHELL], [sys.executable, "-c", PYTHON]):
        command[-1] = command[-1].replace("http://localhost:8000", page_server.url)
        done = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
        )
        for city in ("Paris", "Rome", "Tokyo"):
            assert f"is {city}." in done.stdout


def test_the_shown_background_response_is_answered(page_server):
    command = BACKGROUND.replace("http://localhost:8000", page_server.url)
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "completed The capital of France is Paris.\n"
