"""Options of a layer's attention, and its part of the KV cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Options of a layer's attention.

    Args:
        scaling: factor of the scores.
        window: tokens that a token sees, itself included; None: all.
        softcap: bounds the scores: softcap * tanh(scores / softcap).
        sinks: (num_heads,), scores that take part in the softmax without a value.
    """

    scaling: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None

    @classmethod
    def from_kwargs(cls, head_dim: int, kwargs: Mapping[str, Any]) -> "AttentionOptions":
        """Reads the keyword arguments with which transformers calls attention."""
        return cls(
            scaling=kwargs.get("scaling") or head_dim**-0.5,
            window=kwargs.get("sliding_window"),
            softcap=kwargs.get("softcap"),
            sinks=kwargs.get("s_aux"),
        )

    @property
    def is_plain(self) -> bool:
        """Softmax attention without softcap and sinks; it may have a window."""
        return self.softcap is None and self.sinks is None


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """A layer's options and its part of the KV cache.

    Args:
        keys: (num_blocks, block_size, num_kv_heads, key_dim).
        values: (num_blocks, block_size, num_kv_heads, value_dim).
        options: of the layer.
    """

    keys: torch.Tensor
    values: torch.Tensor
    options: AttentionOptions
