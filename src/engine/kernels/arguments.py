"""Tensors that the kernels take together."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class RotaryAngles:
    """Cosines and sines of RoPE for each row, (num_rows, rotary_dim) each; None: no rotation."""

    cosine: torch.Tensor | None
    sine: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class CachePlaces:
    """Places of a step's rows in the paged KV cache; each row is of another sequence.

    Args:
        block_tables: (num_rows, width) int32, contiguous: the indices of each sequence's blocks, in
            order. What follows the block of the row's position is not read.
        positions: (num_rows,) int64, within the sequence.
    """

    block_tables: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class Projections:
    """Queries, keys and values of packed tokens.

    Args:
        query: (num_tokens, num_heads, key_dim).
        key: (num_tokens, num_kv_heads, key_dim).
        value: (num_tokens, num_kv_heads, value_dim).
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    def __getitem__(self, rows: slice) -> "Projections":
        return Projections(self.query[rows], self.key[rows], self.value[rows])
