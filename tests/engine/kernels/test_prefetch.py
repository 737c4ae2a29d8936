"""The prefetch distance is measured, and changes no result."""

import torch

from src.engine.backend import create_native_backend
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.prefetch import DISTANCES, tune_prefetch
from tests.support.native import KERNELS, needs_kernels


@needs_kernels
def test_the_prefetch_distance_is_measured_and_changes_no_result(caplog):
    caplog.set_level("DEBUG")
    kernels = CpuKernels(KERNELS[0].variant)
    tune_prefetch(kernels)
    assert kernels.prefetch_distance in DISTANCES
    assert f"prefetch distance of weights: {kernels.prefetch_distance} floats" in caplog.text
    weight, rows, outputs = torch.randn(200, 48), torch.randn(9, 48), []
    create_linear = create_native_backend(kernels).create_linear
    for kernels.prefetch_distance in DISTANCES:
        outputs.append(create_linear(weight, None, "none")(rows))
    assert torch.equal(*outputs)
