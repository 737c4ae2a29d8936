"""Clients that people have: what docs/openai.md shows of them is so, and what else they do works.

Those in Python and in Node need `make clients`; OpenAI's own for Python is in test_openai*.py.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import ROOT, Server

ENVIRONMENTS = ROOT / ".clients"
SCRIPTS = sorted((ROOT / "tests" / "clients").glob("with_*"))
PAGE = (ROOT / "docs" / "openai.md").read_text()
CLIENTS = PAGE.partition("\n## Clients\n")[2].partition("\n## ")[0]
# Name, language, what to run and what it prints.
SHOWN = [
    one
    for one in re.findall(
        r"### (.*?)\n.*?```(\w+)\n(.*?)```\n\n```text\n(.*?)```", CLIENTS, re.DOTALL
    )
    if one[0] != "lm-evaluation-harness"  # test_lm_eval.py's
]


@pytest.fixture
def clients() -> Path:
    """CI installs them; elsewhere a test without them is skipped."""
    missing = [
        name for name in ("python", "node") if not (ENVIRONMENTS / name / ".installed").exists()
    ]
    if missing:
        assert "CI" not in os.environ, missing
        pytest.skip("needs `make clients`")
    return ENVIRONMENTS


def run(clients: Path, language: str, code: str, url: str, folder: Path) -> str:
    """Returns what the code prints."""
    command, cwd = {
        "python": ([str(clients / "python" / "bin" / "python"), "-"], folder),
        "js": (["node", "--input-type=module"], clients / "node"),  # imports are looked up there
        "bash": (["bash", "-e"], folder),
    }[language]
    environment = os.environ | {
        "PATH": f"{clients / 'python' / 'bin'}:{os.environ['PATH']}",
        "SERVER_URL": url,
        "LLM_USER_PATH": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # prices are not asked for over the network
    }
    done = subprocess.run(
        command,
        input=code,
        cwd=cwd,
        env={key: value for key, value in environment.items() if not key.startswith("COV")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("language", "code", "printed"), [one[1:] for one in SHOWN], ids=[one[0] for one in SHOWN]
)
def test_a_client_does_what_the_documentation_shows(
    clients: Path, server: Server, tmp_path: Path, language: str, code: str, printed: str
):
    assert "http://localhost:8000" in code
    code = code.replace("http://localhost:8000", server.url)
    assert run(clients, language, code, server.url, tmp_path).strip() == printed.strip()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_client_does_what_its_users_do(
    clients: Path, server: Server, tmp_path: Path, script: Path
):
    language = {".py": "python", ".mjs": "js"}[script.suffix]
    run(clients, language, script.read_text(), server.url, tmp_path)


def test_every_client_is_shown():
    assert len(SHOWN) + 1 == CLIENTS.count("\n### ")
    wanted = (ROOT / "tests" / "clients" / "python.txt").read_text()
    names = re.findall(r"^([\w-]+)>=", wanted, re.MULTILINE)
    assert {*names, "openai for Node"} == {one[0] for one in SHOWN}
