"""`KVCache`: the keys and values of all sequences, one tensor of blocks for each layer."""

import math
import mmap
from dataclasses import dataclass

import torch

from src.engine.scheduling.blocks import Block


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of the keys and values of one token in one layer.

    Args:
        num_kv_heads: number of heads.
        key_dim: values of a key in a head.
        value_dim: values of a value in a head.
        window: tokens that a token sees, itself included; None: all.
    """

    num_kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None

    @property
    def num_values(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Size and format of the KV cache.

    Args:
        num_blocks: number of blocks.
        block_size: tokens of a block.
        dtype: of keys and values.
    """

    num_blocks: int
    block_size: int
    dtype: torch.dtype

    @property
    def num_tokens(self) -> int:
        """Number of tokens for which there is room."""
        return self.num_blocks * self.block_size


class KVCache:
    """Keys and values, (num_blocks, block_size, num_kv_heads, head_dim) a layer.

    The heads of a token are contiguous: a step writes one token of each sequence, and so touches
    one page of memory for it instead of one for each head.

    On a CPU the memory is mapped lazily, as zeros. Attention over padded rows reads beyond a
    sequence's end, where any values will do but NaN.

    Args:
        layers: by the model's layer index.
        layout: size and format.
        device: of the model.
    """

    def __init__(
        self, layers: dict[int, LayerShape], layout: CacheLayout, device: torch.device
    ) -> None:
        self.layout = layout
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        for index, shape in layers.items():
            size = (layout.num_blocks, layout.block_size, shape.num_kv_heads)
            self.keys[index] = _zeros((*size, shape.key_dim), layout.dtype, device)
            self.values[index] = _zeros((*size, shape.value_dim), layout.dtype, device)

    def clear(self, blocks: list[Block]) -> None:
        """Fills blocks with zeros."""
        indices = [block.index for block in blocks]
        for tensors in (self.keys, self.values):
            for tensor in tensors.values():
                tensor[indices] = 0
        for block in blocks:
            block.is_dirty = False


def num_bytes_per_token(layers: dict[int, LayerShape], dtype: torch.dtype) -> int:
    """Returns the size of one token's keys and values in all layers."""
    return sum(shape.num_values for shape in layers.values()) * dtype.itemsize


def widest_window(layers: dict[int, LayerShape]) -> int | None:
    """Returns the number of tokens that a token sees in some layer; None: all."""
    windows = [shape.window for shape in layers.values() if shape.window is not None]
    return max(windows) if len(windows) == len(layers) else None


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    # Pages are allocated one by one when first written; numpy would ask for huge pages.
    num_bytes = math.prod(size) * dtype.itemsize
    buffer = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(buffer, dtype=dtype).view(size)
