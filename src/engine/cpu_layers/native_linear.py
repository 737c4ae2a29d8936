"""Linear layers on our own kernels; `src.engine.cpu_layers.linear` says what each kind rounds."""

import torch
from torch.nn.functional import pad

from src.engine.cpu_layers.linear import FastLinear
from src.engine.kernels.bindings import BLOCK, PANEL, CpuKernels
from src.engine.kernels.structs import LinearData, address

SHIFT = 128
"""What the kernel adds to each input that it has rounded, so that none is below zero."""


class NativeLinear(FastLinear):
    """Panels of outputs: (num_panels, num_inputs, PANEL), exact."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, library: CpuKernels
    ) -> None:
        super().__init__(weight, bias)
        self._library = library
        filled = _fill_up(weight).view(-1, PANEL, self.in_features)
        self._panels = filled.transpose(1, 2).contiguous()
        self.data = LinearData(
            *(address(self._panels), address(self.bias), None, None),
            *(self.in_features, self.out_features, library.ahead),
        )

    @property
    def weight(self) -> torch.Tensor:
        return self._panels.transpose(1, 2).reshape(-1, self.in_features)[: self.out_features]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._library.linear(self.data, rows)


class NativeInt8Linear(FastLinear):
    """8-bit integers, each with a scale: a weight's output, an input's row.

    Panels are (num_panels, num_inputs / 4, PANEL, 4). What the kernel adds to the input is taken
    off its sums: SHIFT times the sum of an output's weights.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, library: CpuKernels
    ) -> None:
        super().__init__(weight, bias)
        self._library = library
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        integers = _fill_up((weight / scales[:, None]).round().to(torch.int8))
        self._scales = _fill_up(scales)
        self._shifts = integers.sum(dim=1, dtype=torch.int32) * SHIFT
        quartets = integers.view(-1, PANEL, self.in_features // 4, 4)
        self._panels = quartets.transpose(1, 2).contiguous()
        self.data = LinearData(
            *(address(self._panels), address(self.bias)),
            *(address(self._scales), address(self._shifts)),
            *(self.in_features, self.out_features, library.ahead),
        )

    @property
    def weight(self) -> torch.Tensor:
        integers = self._panels.transpose(1, 2).reshape(-1, self.in_features)
        return (integers * self._scales[:, None])[: self.out_features]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._library.linear(self.data, rows)


def _fill_up(outputs: torch.Tensor) -> torch.Tensor:
    """Adds zeros to the first dimension, up to a multiple of BLOCK."""
    missing = -len(outputs) % BLOCK
    return pad(outputs, [0, 0] * (outputs.dim() - 1) + [0, missing])
