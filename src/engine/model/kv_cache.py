"""`KVCache`: the keys and values of all sequences, one tensor of slots for each layer."""

import math
import mmap
from dataclasses import dataclass

import torch

from src.engine.scheduling.kv_slots import Lease, Slot


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of the keys and values of one token in one layer."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def num_values(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)


class KVCache:
    """Keys and values, (num_slots, capacity, num_kv_heads, head_dim) a layer.

    The heads of a token are contiguous: a step writes one token of each sequence, and so touches
    one page of memory for it instead of one for each head.

    On a CPU the memory is mapped lazily, as zeros. Attention over padded rows reads beyond a
    sequence's end, where any values will do but NaN.

    Args:
        layers: by the model's layer index.
        num_slots: number of sequences.
        capacity: maximum number of tokens in each.
    """

    def __init__(
        self,
        layers: dict[int, LayerShape],
        num_slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        for index, shape in layers.items():
            size = (num_slots, capacity, shape.num_kv_heads)
            self.keys[index] = _zeros((*size, shape.key_dim), dtype, device)
            self.values[index] = _zeros((*size, shape.value_dim), dtype, device)

    def copy_prefix(self, lease: Lease) -> None:
        """Copies the first `num_cached` tokens from another slot."""
        assert lease.copy_from is not None
        source, target, length = lease.copy_from.index, lease.slot.index, lease.num_cached
        for tensors in (self.keys, self.values):
            for tensor in tensors.values():
                tensor[target, :length] = tensor[source, :length]

    def clear(self, slot: Slot) -> None:
        """Fills a slot with zeros."""
        for tensors in (self.keys, self.values):
            for tensor in tensors.values():
                tensor[slot.index] = 0
        slot.is_dirty = False


def num_bytes_per_slot(layers: dict[int, LayerShape], capacity: int, dtype: torch.dtype) -> int:
    """Returns the size of a full slot."""
    return sum(shape.num_values for shape in layers.values()) * capacity * dtype.itemsize


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    # Pages are allocated one by one when first written; numpy would ask for huge pages.
    num_bytes = math.prod(size) * dtype.itemsize
    buffer = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(buffer, dtype=dtype).view(size)
