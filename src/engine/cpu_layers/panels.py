"""Packs weights for our own kernels, part by part: no second copy of a matrix is ever in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from src.engine.kernels.packing import BLOCK, PANEL, pack_int8_panels, pack_panels, pad_outputs

SHIFT = 128
"""Added to each quantized input by the kernels, to make it unsigned; as in int8.h."""


CHUNK_SIZE = 2**18
"""Numbers that are packed at a time; in float32 1 MiB, which the processor's caches hold."""


@dataclass(slots=True)
class Panels:
    """A weight as the kernels read it.

    Args:
        values: float32 (`pack_panels`) or int8 (`pack_int8_panels`).
        num_outputs: of the weight; `values` is padded to a multiple of BLOCK.
        scales: of the outputs, in int8; else None.
        shifts: sums of the outputs' integers times SHIFT, in int8; else None.
    """

    values: torch.Tensor
    num_outputs: int
    scales: torch.Tensor | None = None
    shifts: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, (out_features, in_features)."""
        return self.num_outputs, self.values[0].numel() // PANEL

    def part(self, start: int, num_outputs: int) -> "Panels":
        """Returns some outputs as views; `start` is a multiple of BLOCK."""
        stop = start + -(-num_outputs // BLOCK) * BLOCK
        values = self.values[start // PANEL : stop // PANEL]
        if self.scales is None or self.shifts is None:
            return Panels(values, num_outputs)
        return Panels(values, num_outputs, self.scales[start:stop], self.shifts[start:stop])


def pack(weight: torch.Tensor) -> Panels:
    """Packs a weight of any float format in float32."""
    panels = torch.empty(_num_padded(weight) // PANEL, weight.shape[1], PANEL)
    with _one_thread():
        for start, chunk in _chunks(weight):
            packed = pack_panels(chunk)
            panels[start // PANEL :][: len(packed)] = packed
    return Panels(panels, len(weight))


def pack_int8(weight: torch.Tensor) -> Panels:
    """Rounds a weight of any float format to int8, with a scale for each output, and packs it."""
    num_padded, num_inputs = _num_padded(weight), weight.shape[1]
    panels = torch.empty(num_padded // PANEL, num_inputs // 4, PANEL, 4, dtype=torch.int8)
    scales, shifts = torch.zeros(num_padded), torch.zeros(num_padded, dtype=torch.int32)
    with _one_thread():
        for start, chunk in _chunks(weight):
            scale = chunk.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            integers = pad_outputs(chunk.div_(scale[:, None]).round_().to(torch.int8))
            packed = pack_int8_panels(integers)
            panels[start // PANEL :][: len(packed)] = packed
            scales[start:][: len(scale)] = scale
            shifts[start:][: len(integers)] = integers.sum(dim=1, dtype=torch.int32) * SHIFT
    return Panels(panels, len(weight), scales, shifts)


def _num_padded(weight: torch.Tensor) -> int:
    return -(-len(weight) // BLOCK) * BLOCK


def _chunks(weight: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields parts of a weight as copies in float32, with the numbers of their first outputs."""
    num_rows = max(1, CHUNK_SIZE // weight.shape[1] // BLOCK) * BLOCK
    for start in range(0, len(weight), num_rows):
        chunk = torch.empty(len(weight[start : start + num_rows]), weight.shape[1])
        yield start, chunk.copy_(weight[start : start + num_rows])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps PyTorch from sharing out operations that are too short for it.

    Nothing inside may use several threads: OpenMP ends its threads when their number falls.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
