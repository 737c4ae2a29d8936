"""The commands of docs/ranking.md run as they stand."""

import json
import re
import subprocess

import pytest

from tests.support.servers import ROOT

PAGE = (ROOT / "docs" / "ranking.md").read_text()
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_answered(server, command):
    command = command.replace("http://localhost:8000", server.url)
    done = subprocess.run(["bash", "-ec", command], capture_output=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert "error" not in answer
    assert answer["model"] == "storyteller"


def test_the_page_has_commands():
    assert len(COMMANDS) == 2
