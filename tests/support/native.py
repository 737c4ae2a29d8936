"""Variants of our own kernels that were built on this machine and that it can run."""

import pytest

from src.engine.backend import TORCH_BACKEND, create_native_backend
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.build import usable_variants
from src.engine.sampling.kernels import NativeSampling, TorchSampling

KERNELS = [CpuKernels(variant) for variant in usable_variants()]
"""Empty without a compiler; CI has one."""

BACKENDS = {
    "pytorch": TORCH_BACKEND,
    **{kernels.variant: create_native_backend(kernels) for kernels in KERNELS},
}
"""Backends by name: PyTorch's, and one for each variant."""

NATIVE_SAMPLING = {kernels.variant: NativeSampling(kernels) for kernels in KERNELS}
SAMPLING_KERNELS = {"pytorch": TorchSampling(), **NATIVE_SAMPLING}

needs_kernels = pytest.mark.skipif(not KERNELS, reason="the C++ kernels were not built")

each_variant = pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.variant)

each_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())

each_sampling_kernels = pytest.mark.parametrize(
    "kernels", SAMPLING_KERNELS.values(), ids=SAMPLING_KERNELS.keys()
)
