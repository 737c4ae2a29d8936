"""`make soak` works, for some seconds."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.servers import ROOT


def test_a_short_soak_finds_all_promises_kept():
    """Kills one of two workers. CI installs Redis; elsewhere a test without it is skipped."""
    if shutil.which("redis-server") is None:
        message = "needs redis-server: Debian's package of that name"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    command = [sys.executable, "-m", "benchmarks.soak", "--quick", "--workers", "2"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=250, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| started = finished + failed + aborted + what ran in the killed worker" in done.stdout
    assert "BROKEN" not in done.stdout
