"""Environment variables that libraries read when torch is imported. No torch."""

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
