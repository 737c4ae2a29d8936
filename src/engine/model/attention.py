"""Attention over the KV cache, as the function that HuggingFace's models call.

transformers lets a model's attention be replaced by a registered function
(`ALL_ATTENTION_FUNCTIONS`). Ours gets the packed queries, keys and values of all sequences of a
step. It stores the keys and values in the sequences' slots, and each sequence attends to its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.kernels.arguments import Projections
from src.engine.model.kv_cache import KVCache
from src.engine.model.packed_step import Segment, Step


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
        keys: (num_slots, capacity, num_kv_heads, key_dim).
        values: (num_slots, capacity, num_kv_heads, value_dim).
        options: of the layer.
    """

    keys: torch.Tensor
    values: torch.Tensor
    options: AttentionOptions


class DecodeAttention(Protocol):
    """Attention of sequences of one token each."""

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        """Stores keys and values in the cache, and attends.

        Args:
            step: its first tokens are those of the decoding sequences.
            layer: of the model.
            tokens: one for each decoding sequence.
            output: (num_sequences, num_heads, value_dim); it is filled.
        """


class PackedAttention:
    """Attention over packed sequences.

    Args:
        cache: keys and values of all layers.
        decode: attention of decoding sequences.

    Attributes:
        step: the current forward pass; the runner sets it.
    """

    def __init__(self, cache: KVCache, decode: DecodeAttention) -> None:
        self.cache = cache
        self.step: Step | None = None
        self._decode = decode

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, None]:
        """Computes a layer's attention; transformers calls it.

        Args:
            module: the model's attention layer.
            query: (1, num_heads, num_tokens, key_dim).
            key: (1, num_kv_heads, num_tokens, key_dim).
            value: (1, num_kv_heads, num_tokens, value_dim).
            attention_mask: None, as no mask function is registered under our name.
            kwargs: see `AttentionOptions.from_kwargs`; others have no effect without training.

        Returns:
            (1, num_tokens, num_heads, value_dim), and None for the weights.
        """
        step, index = self.step, module.layer_idx
        assert step is not None
        assert attention_mask is None
        assert isinstance(index, int)
        options = AttentionOptions.from_kwargs(query.shape[-1], kwargs)
        layer = AttentionLayer(self.cache.keys[index], self.cache.values[index], options)
        # (num_tokens, heads, dim) each
        tokens = Projections(*(heads[0].transpose(0, 1) for heads in (query, key, value)))
        output = query.new_empty(*tokens.query.shape[:2], value.shape[-1])
        start = len(step.decodes)
        self._decode(step, layer, tokens[:start], output[:start])
        for segment in step.prefills:
            rows = slice(start, start + segment.num_tokens)
            output[rows] = _prefill(step, segment, layer, tokens[rows])
            start = rows.stop
        return output[None], None


def _prefill(
    step: Step, segment: Segment, layer: AttentionLayer, tokens: Projections
) -> torch.Tensor:
    """Stores and attends to tokens of one sequence: (num_tokens, num_heads, value_dim)."""
    layer.keys[segment.slot, segment.start : segment.end] = tokens.key
    layer.values[segment.slot, segment.start : segment.end] = tokens.value
    window = layer.options.window
    first = 0 if window is None else max(0, segment.start - window + 1)
    span = slice(first, segment.end)
    if (segment.slot, window) not in step.masks:
        positions = torch.arange(segment.start, segment.end, device=tokens.query.device)[:, None]
        step.masks[segment.slot, window] = causal_mask(positions, span, window)[None, None]
    slot = slice(segment.slot, segment.slot + 1)
    key, value = (cache[slot, span].transpose(1, 2) for cache in (layer.keys, layer.values))
    query, mask = tokens.query.transpose(0, 1)[None], step.masks[segment.slot, window]
    return attend(query, key, value, mask, layer.options)[0].transpose(0, 1)


def causal_mask(positions: torch.Tensor, span: slice, window: int | None) -> torch.Tensor:
    """Returns the keys of a span that queries at `positions`, (num_queries, 1), see.

    The result is (num_queries, num_keys), bool.
    """
    index = torch.arange(span.start, span.stop, device=positions.device)[None]
    mask = index <= positions
    if window is not None:
        mask &= index > positions - window
    return mask


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
) -> torch.Tensor:
    """Computes softmax attention, with groups of query heads that share a key head.

    Args:
        query: (batch, num_heads, num_queries, key_dim).
        key: (batch, num_kv_heads, num_keys, key_dim).
        value: (batch, num_kv_heads, num_keys, value_dim).
        mask: True where a query sees a key; broadcast to (batch, num_heads, num_queries, num_keys).
        options: of the layer; the window is in the mask.

    Returns:
        (batch, num_heads, num_queries, value_dim).
    """
    group_size = query.shape[1] // key.shape[1]
    if not options.is_plain:
        key, value = key.repeat_interleave(group_size, 1), value.repeat_interleave(group_size, 1)
        return _attend_eagerly(query, key, value, mask, options)
    if query.shape[2] == 1:  # with one token, the heads of a group can be queries of one head
        grouped = query.reshape(len(query), key.shape[1], group_size, -1)
        output = scaled_dot_product_attention(grouped, key, value, mask, scale=options.scaling)
        return output.reshape(*query.shape[:3], -1)
    return scaled_dot_product_attention(
        query, key, value, mask, scale=options.scaling, enable_gqa=group_size > 1
    )


def _attend_eagerly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
) -> torch.Tensor:
    """Computes attention with softcap and sinks; there are as many key heads as query heads."""
    scores = query @ key.mT * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if options.sinks is not None:
        sinks = options.sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
