"""Packs weights for our own kernels, part by part: no second copy of a matrix is ever in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from src.engine.kernels.packing import BLOCK, PANEL, view_panels

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


@torch.no_grad()
def pack(weight: torch.Tensor) -> Panels:
    """Packs a weight of any float format in float32."""
    num_outputs, num_inputs = weight.shape
    panels = torch.empty(_padded(num_outputs) // PANEL, num_inputs, PANEL)
    with _one_thread():
        for start, chunk in _chunks(weight):
            panels[start // PANEL :][: len(chunk) // PANEL] = view_panels(chunk)
    return Panels(panels, num_outputs)


@torch.no_grad()
def pack_int8(weight: torch.Tensor) -> Panels:
    """Rounds a weight of any float format to int8, with a scale for each output, and packs it."""
    num_outputs, num_inputs = weight.shape
    num_padded = _padded(num_outputs)
    groups = torch.empty(num_padded // PANEL, num_inputs // 4, PANEL, dtype=torch.int32)
    scales, shifts = torch.empty(num_padded), torch.empty(num_padded, dtype=torch.int32)
    with _one_thread():
        for start, chunk in _chunks(weight):
            maxima = torch.maximum(chunk.amax(dim=1), chunk.amin(dim=1).neg_())
            scale = maxima.clamp_(min=torch.finfo(torch.float32).tiny).div_(127)
            integers = chunk.div_(scale[:, None]).round_().to(torch.int8)
            scales[start:][: len(chunk)] = scale
            shifts[start:][: len(chunk)] = integers.sum(dim=1, dtype=torch.int32) * SHIFT
            moved = view_panels(integers.view(torch.int32))  # four inputs as one number
            groups[start // PANEL :][: len(moved)] = moved
    values = groups.view(torch.int8).view(*groups.shape, 4)
    return Panels(values, num_outputs, scales, shifts)


def _padded(num_outputs: int) -> int:
    return -(-num_outputs // BLOCK) * BLOCK


def _chunks(weight: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields parts of a weight in float32, padded with zeros, and where they start.

    All are in the same memory: the next one overwrites it, and the caller may do so before.
    """
    num_inputs = weight.shape[1]
    num_rows = max(1, CHUNK_SIZE // num_inputs // BLOCK) * BLOCK
    scratch = _scratch(num_rows * num_inputs)
    for start in range(0, len(weight), num_rows):
        part = weight[start : start + num_rows]
        chunk = scratch[: _padded(len(part)) * num_inputs].view(-1, num_inputs)
        chunk[: len(part)] = part
        chunk[len(part) :] = 0
        yield start, chunk


@cache
def _scratch(size: int) -> torch.Tensor:
    """Memory for parts, one for each of the few sizes.

    New memory for each weight would be in the gaps between the panels, and fill many of them.
    """
    with torch.inference_mode(mode=False):  # its tensors can be changed in no other mode
        return torch.empty(size)


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
