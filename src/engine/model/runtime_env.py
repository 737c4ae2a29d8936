"""Preparations of an import of torch: environment variables and its shared library. No torch."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from src.engine.config import Kernels
from src.engine.kernels.build import usable_variants


def torch_environment(kernels: Kernels) -> dict[str, str]:
    """Returns variables to set, unless they are set, before torch is imported.

    GOMP_SPINCOUNT: OpenMP's threads spin up to 15 ms while they wait for work, and keep their cores
    from the event loop, other processes and the native kernels' threads. 1 ms is enough with
    PyTorch's kernels, and 0.05 ms with the native ones, which leave OpenMP little to do
    (benchmarks/LOG.md).

    THP_MEM_ALLOC_ENABLE: large tensors get transparent huge pages (2 MiB) where the system has
    some; reading weights is up to a third faster.
    """
    is_native = kernels != "pytorch" and usable_variants()
    return {"GOMP_SPINCOUNT": "1000" if is_native else "20000", "THP_MEM_ALLOC_ENABLE": "1"}


def preload_torch_library() -> None:
    """Loads the library of torch's CPU build, if there is one, without the GIL.

    The import of torch would load it with the GIL held, for a seventh of a second and more in which
    the event loop stands still. ctypes releases the GIL while the C function runs.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    if (folder / "libtorch_cpu.so").exists() and not (folder / "libtorch_cuda.so").exists():
        with suppress(AttributeError):  # older C libraries have it elsewhere
            ctypes.CDLL(None).dlopen(os.fsencode(folder / "libtorch_cpu.so"), os.RTLD_LAZY)


@contextmanager
def without_collections() -> Iterator[None]:
    """Pauses the garbage collector for imports, and leaves out later what they have created.

    A full collection visits all objects with the GIL held, for a tenth of a second; imports of
    large libraries cause several. What they create lives as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
