"""Linear layers on our own kernels; linear.py says what each kind rounds.

A row's result does not depend on the other rows.
"""

import torch

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import FastLinear, create_torch_linear
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.packing import (
    PANEL,
    pack_int8_panels,
    pack_panels,
    pad_outputs,
    unpack_int8_panels,
    unpack_panels,
)
from src.engine.kernels.structs import LinearData, address

SHIFT = 128
"""Added to each quantized input by the kernels, to make it unsigned; as in int8.h."""


class NativeLinear(FastLinear):
    """Float32 GEMM, with the weight in panels."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: CpuKernels
    ) -> None:
        super().__init__(weight, bias)
        self._kernels = kernels
        self._panels = pack_panels(weight)
        self.data = LinearData(
            weight=address(self._panels),
            bias=address(self.bias),
            num_inputs=self.in_features,
            num_outputs=self.out_features,
            prefetch_distance=kernels.prefetch_distance,
        )

    @property
    def weight(self) -> torch.Tensor:
        return unpack_panels(self._panels, self.out_features)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._kernels.linear(self.data, rows)


class NativeInt8Linear(FastLinear):
    """Int8 GEMM, with a scale for each output of the weight and each row of the input.

    The kernels subtract SHIFT times the sum of an output's weights from its sum, which undoes the
    shift of the inputs.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: CpuKernels
    ) -> None:
        super().__init__(weight, bias)
        self._kernels = kernels
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        integers = pad_outputs((weight / scales[:, None]).round().to(torch.int8))
        self._scales = pad_outputs(scales)
        self._shifts = integers.sum(dim=1, dtype=torch.int32) * SHIFT
        self._panels = pack_int8_panels(integers)
        self.data = LinearData(
            weight=address(self._panels),
            bias=address(self.bias),
            scales=address(self._scales),
            shifts=address(self._shifts),
            num_inputs=self.in_features,
            num_outputs=self.out_features,
            prefetch_distance=kernels.prefetch_distance,
        )

    @property
    def weight(self) -> torch.Tensor:
        integers = unpack_int8_panels(self._panels)
        return (integers * self._scales[:, None])[: self.out_features]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._kernels.linear(self.data, rows)


def create_native_linear(
    kernels: CpuKernels,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    quantization: Quantization,
) -> FastLinear:
    """Creates a layer on our own kernels, or on PyTorch's if ours do not support it."""
    if quantization == "none":
        return NativeLinear(weight, bias, kernels)
    if quantization == "int8" and weight.shape[1] % PANEL == 0:
        return NativeInt8Linear(weight, bias, kernels)
    return create_torch_linear(weight, bias, quantization)
