"""Builds of the kernels: names by source, and compilers that are missing, old or failing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.engine.kernels import build
from tests.support.native import needs_kernels


def run_build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "build.py"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path):
    folder = Path(build.__file__).parent
    shutil.copy(folder / "build.py", tmp_path)
    shutil.copytree(folder / "csrc", tmp_path / "csrc")
    return tmp_path


@needs_kernels
def test_builds_once_and_again_after_a_change_of_the_source(source):
    assert run_build(source).returncode == 0
    first = set(source.glob("*.so"))
    assert len(first) == len(build.VARIANTS)
    times = {path: path.stat().st_mtime_ns for path in first}
    assert run_build(source).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in first} == times
    with (source / "csrc" / "thread_pool.h").open("a") as file:
        file.write("// other\n")
    assert run_build(source).returncode == 0
    assert len(set(source.glob("*.so"))) == len(build.VARIANTS)
    assert first.isdisjoint(source.glob("*.so"))


def test_succeeds_without_a_compiler(source):
    done = run_build(source, CXX="no-such-compiler")
    assert done.returncode == 0
    assert "no C++ compiler was found" in done.stdout
    assert not list(source.glob("*.so"))


@needs_kernels
def test_builds_the_variants_that_the_compiler_supports(source, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *amx*) exit 1;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    done = run_build(source, CXX=str(compiler))
    assert done.returncode == 0
    assert "No C++ kernels for amx: the compiler does not support it." in done.stdout
    assert len(set(source.glob("*.so"))) == len(build.VARIANTS) - 1


@needs_kernels
def test_fails_and_leaves_no_file_if_the_compiler_fails(source):
    files = {path.name for path in source.iterdir()}
    (source / "csrc" / "kernels.cpp").write_text("#error this")
    done = run_build(source)
    assert done.returncode == 1
    assert "cannot be compiled" in done.stderr
    assert {path.name for path in source.iterdir()} <= files | {"__pycache__"}
