"""API keys for tests, created, listed and revoked by the users' command."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.servers import ROOT


def run_keys(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "src", "keys", "--file", file, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def create_key(file: Path, name: str, *options: str) -> str:
    """Creates a key and returns it."""
    done = run_keys(file, "create", name, *options)
    assert done.returncode == 0, done.stderr
    (key,) = done.stdout.splitlines()
    return key


def id_of(key: str) -> str:
    return key.split("_")[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def entries(file: Path) -> list[dict[str, object]]:
    return json.loads(file.read_text())["keys"]
