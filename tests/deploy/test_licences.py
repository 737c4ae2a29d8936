"""Licences that delivered packages may have."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT


def run_licences(folder: Path, **packages: str) -> subprocess.CompletedProcess[str]:
    """Runs the command on a folder where packages with this metadata are installed."""
    for name, metadata in packages.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(f"{head}{metadata}\n\n")
    return subprocess.run(
        [sys.executable, "-m", "deploy.licences", folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: MIT",
        "License-Expression: GPL-3.0-only OR MIT AND ISC",
        "License: BSD",
        "License: Copyright\n        and so on\nClassifier: License :: OSI Approved :: BSD License",
        "Classifier: License :: OSI Approved :: MIT License",
    ],
)
def test_a_permissive_licence_passes(tmp_path, metadata):
    done = run_licences(tmp_path, one=metadata)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("one: ")


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: GPL-3.0-only",
        "License-Expression: MIT AND GPL-3.0-only",
        "License-Expression: (MIT OR ISC) AND GPL-3.0-only",
        "License-Expression: MPL-2.0",
        "License: see the file",
        "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
        "Summary: says nothing of licences",
    ],
)
def test_a_licence_that_is_not_allowed_fails_and_names_the_package(tmp_path, metadata):
    done = run_licences(tmp_path, good="License: MIT", bad=metadata)
    assert done.returncode == 1
    assert done.stderr == "Licences that are not in ALLOWED or EXCEPTIONS: bad.\n"


def test_an_exception_is_for_its_package_alone_and_shows_its_reason(tmp_path):
    done = run_licences(tmp_path, certifi="License: MPL-2.0", other="License: MPL-2.0")
    assert "certifi: MPL-2.0 (a list of certificates" in done.stdout
    assert done.stderr == "Licences that are not in ALLOWED or EXCEPTIONS: other.\n"


def test_an_empty_folder_fails(tmp_path):
    assert "no package" in run_licences(tmp_path).stderr
