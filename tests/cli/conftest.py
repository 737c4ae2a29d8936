"""Commands run in this process: their status and what they print."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from src.cli.app import main


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Returns a function that runs a command with these arguments and this standard input."""
    for name in ("INFERENCE_URL", "API_KEY", "OPENAI_API_KEY", "USAGE_LOG"):
        monkeypatch.delenv(name, raising=False)

    def run_command(*arguments: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["src", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        # Not capsys: servers of this process log to the standard error that they began with.
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run_command
