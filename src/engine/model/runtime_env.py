"""What libraries read from the environment when torch is imported, and how we want it. No torch."""

from src.engine.config import Kernels
from src.engine.kernels.build import usable_variants


def torch_environment(kernels: Kernels) -> dict[str, str]:
    """Variables to set, unless they are, before anything imports torch.

    OpenMP's threads spin while they wait for work, for up to 15 ms, and what else wants their cores
    waits as long: the event loop, other processes, and the threads of our own kernels. A
    millisecond does where PyTorch's kernels compute, and a twentieth of it beside our own, as
    little is left for OpenMP then (benchmarks/LOG.md).

    Large tensors come in pages of 2 MiB where the system gives some: weights are read up to a third
    faster.
    """
    ours = kernels != "pytorch" and usable_variants()
    return {"GOMP_SPINCOUNT": "1000" if ours else "20000", "THP_MEM_ALLOC_ENABLE": "1"}
