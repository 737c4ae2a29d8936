"""Preparations of an import of torch, in a process without it."""

import gc
import subprocess
import sys

import pytest

from src.engine.model.runtime_env import without_collections
from tests.support.servers import ROOT

IMPORT = """
import sys
from pathlib import Path
from src.engine.model.runtime_env import preload_torch_library
preload_torch_library()
assert "torch" not in sys.modules
print("libtorch_cpu.so" in Path("/proc/self/maps").read_text())
import torch
assert torch.ones(2).sum() == 2
print(torch.version.cuda)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_library_of_a_cpu_build_is_loaded_before_the_import():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    is_loaded, cuda = result.stdout.split()
    assert (is_loaded == "True") == (cuda == "None")


def test_collections_are_paused_and_leave_out_what_was_created():
    assert gc.isenabled()
    num_frozen = gc.get_freeze_count()
    with without_collections():
        assert not gc.isenabled()
        created = [[number] for number in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= num_frozen + len(created)
    gc.unfreeze()


def test_collections_go_on_after_a_failed_import():
    with pytest.raises(ImportError), without_collections():
        raise ImportError
    assert gc.isenabled()
