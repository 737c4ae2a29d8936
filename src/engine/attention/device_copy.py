"""Copies several arrays from the host to a device by one transfer."""

from collections.abc import Sequence

import numpy as np
import torch

ALIGNMENT = 16
"""Arrays begin at multiples of that many bytes; a view as int64 needs 8."""


def copy_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Returns arrays as tensors on a device; on a CPU they share the arrays' memory.

    On CUDA the transfer comes from pinned memory, so the host does not wait for it. PyTorch reuses
    that memory only after the transfer.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = pack(arrays, pin_memory=device.type == "cuda")
    return unpack(packed.to(device, non_blocking=True), arrays)


def pack(arrays: Sequence[np.ndarray], *, pin_memory: bool) -> torch.Tensor:
    """Returns the bytes of all arrays in one tensor."""
    packed = torch.empty(_starts(arrays)[-1], dtype=torch.uint8, pin_memory=pin_memory)
    for array, start in zip(arrays, _starts(arrays), strict=False):
        packed.numpy()[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    return packed


def unpack(packed: torch.Tensor, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Returns views of packed bytes, with the shapes and types of the arrays."""
    return [
        packed[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for array, start in zip(arrays, _starts(arrays), strict=False)
    ]


def _starts(arrays: Sequence[np.ndarray]) -> list[int]:
    """Returns the first byte of each array, and the number of bytes of all."""
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.nbytes // ALIGNMENT) * ALIGNMENT)
    return starts
