"""Linear layers on our own kernels; linear.py says what each kind rounds.

A row's result does not depend on the other rows.
"""

from collections.abc import Sequence

import torch

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import FastLinear, create_torch_linear
from src.engine.cpu_layers.panels import Panels, pack, pack_int8
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.packing import BLOCK, PANEL, unpack_int8_panels, unpack_panels
from src.engine.kernels.structs import LinearData, address


class NativeLinear(FastLinear):
    """Float32 GEMM, with the weight in panels."""

    def __init__(
        self, weight: torch.Tensor | Panels, bias: torch.Tensor | None, kernels: CpuKernels
    ) -> None:
        super().__init__(weight.shape, bias)
        self._kernels = kernels
        self.use_panels(weight if isinstance(weight, Panels) else self.pack(weight))

    @staticmethod
    def pack(weight: torch.Tensor) -> Panels:
        """Packs a weight of any float format."""
        return pack(weight)

    def use_panels(self, panels: Panels) -> None:
        """Takes panels of the same weight in other memory."""
        self.panels = panels
        self.data = LinearData(
            weight=address(panels.values),
            bias=address(self.bias),
            scales=address(panels.scales),
            shifts=address(panels.shifts),
            num_inputs=self.in_features,
            num_outputs=self.out_features,
            prefetch_distance=self._kernels.prefetch_distance,
        )

    @property
    def weight(self) -> torch.Tensor:
        return unpack_panels(self.panels.values, self.out_features)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._kernels.linear(self.data, rows)


class NativeInt8Linear(NativeLinear):
    """Int8 GEMM, with a scale for each output of the weight and each row of the input.

    The kernels subtract SHIFT times the sum of an output's weights from its sum, which undoes the
    shift of the inputs.
    """

    @staticmethod
    def pack(weight: torch.Tensor) -> Panels:
        """Rounds and packs a weight of any float format."""
        return pack_int8(weight)

    @property
    def weight(self) -> torch.Tensor:
        assert self.panels.scales is not None
        integers = unpack_int8_panels(self.panels.values)
        return (integers * self.panels.scales[:, None])[: self.out_features]


def join_native_linears(
    linears: Sequence[NativeLinear], bias: torch.Tensor | None, kernels: CpuKernels
) -> NativeLinear:
    """Creates a layer with the outputs of several layers side by side.

    If the panels can be joined as they are, the layers read those of the new one from then on, so
    that no weight is in memory twice.
    """
    layer_class = type(linears[0])
    if any(linear.out_features % BLOCK for linear in linears[:-1]):
        return layer_class(torch.cat([linear.weight for linear in linears]), bias, kernels)
    joined = Panels(
        torch.cat([linear.panels.values for linear in linears]),
        sum(linear.out_features for linear in linears),
        _cat([linear.panels.scales for linear in linears]),
        _cat([linear.panels.shifts for linear in linears]),
    )
    start = 0
    for linear in linears:
        linear.use_panels(joined.part(start, linear.out_features))
        start += linear.out_features
    return layer_class(joined, bias, kernels)


def _cat(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


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
