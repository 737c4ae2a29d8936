"""Commands of README and docs run and give the shown answers; links lead to files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import rooms_table
from tests.support.servers import ROOT, Server

README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("lessons/**/*.md"),
        ROOT / "training" / "README.md",
    ]
    if path.is_file()
)
# A command in a bash block, and the answer after it if there is one: JSON, or a stream.
EXAMPLES = re.findall(r"```bash\n(.*?)```\n(?:\n```(?:json|text)\n(.*?)```\n)?", README, re.DOTALL)
STAMPS = ("id", "created", "cached_tokens", "system_fingerprint")  # the last: by processor
# The clients of docs/openai.md are for tests/clients.
SHOWN = [
    README,
    (ROOT / "docs" / "openai.md").read_text().partition("\n## Clients\n")[0],
    (ROOT / "docs" / "anthropic.md").read_text(),
]
PYTHON = re.findall(r"```python\n(.*?)```", "".join(SHOWN), re.DOTALL)
IS_REPEATABLE = re.compile(r'"temperature": 0[,}]|/health|"max_length": 0')


def shape(value: object) -> object:
    """Returns a JSON value's structure: its keys and types."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def without_stamps(value: object) -> object:
    """Returns a JSON value without the parts that differ between answers."""
    if isinstance(value, dict):
        return {
            key: None if key in STAMPS else without_stamps(inner) for key, inner in value.items()
        }
    return [without_stamps(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_a_shown_command_gives_the_shown_answer(server: Server, command: str, shown: str):
    command = command.replace("http://localhost:8000", server.url)
    assert server.url in command, "only commands to the server are in bash blocks"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120)
    if '"stream": true' in command:
        assert done.stdout.decode().strip() == shown.strip()
        return
    answer = json.loads(done.stdout)
    if not shown:
        return
    if IS_REPEATABLE.search(command):
        assert without_stamps(answer) == without_stamps(json.loads(shown))
    else:
        assert shape(answer) == shape(json.loads(shown))


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_shown_python_prints_the_shown_output(server: Server, code: str):
    shown = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert shown
    code = code.replace("http://localhost:8000", server.url)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=120
    )
    assert done.stdout.decode().splitlines() == shown


def test_the_readme_shows_enough():
    assert len(EXAMPLES) >= 5
    assert sum(bool(shown) for _, shown in EXAMPLES) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_existing_files(page: Path):
    for target in re.findall(r"\]\(\s*([^)#\s]+)\s*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_shown_make_target_exists():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shown = re.findall(r"(?:^|`|[A-Z]=\S+ )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)
        for target in shown:
            assert target in targets, f"{page.name}: make {target}"


def test_the_settings_of_the_readme_exist():
    from src.config import Settings

    table = README[README.index("| variable | default |") :]
    first_cells = re.findall(r"^\| (.*?) \|", table[: table.index("[All of them]")], re.MULTILINE)
    names = re.findall(r"`([A-Z_]+)`", "".join(first_cells))
    assert len(names) >= 10
    for name in names:
        assert name.lower() in Settings.model_fields


def test_the_table_of_rooms_is_current():
    assert rooms_table() in (ROOT / "docs" / "architecture.md").read_text()
