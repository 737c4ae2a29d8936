"""Attention over the KV cache, as the function that HuggingFace's models call.

transformers lets a model's attention be replaced by a registered function
(`ALL_ATTENTION_FUNCTIONS`). Ours gets the packed queries, keys and values of all sequences of a
step. It stores the keys and values in the sequences' blocks, and each sequence attends to its own.
"""

from typing import Protocol

import torch

from src.engine.attention.kv_cache import KVCache
from src.engine.attention.layer import AttentionLayer, AttentionOptions
from src.engine.attention.packed_step import Step
from src.engine.kernels.arguments import Projections


class Attention(Protocol):
    """Attention of all sequences of a step, in one layer."""

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        """Stores keys and values in the cache, and attends.

        Args:
            step: the packed tokens.
            layer: of the model.
            tokens: of the step.
            output: (num_tokens, num_heads, value_dim); it is filled.
        """


class PackedAttention:
    """Attention over packed sequences.

    Args:
        cache: keys and values of all layers.
        attend: implementation.

    Attributes:
        step: the current forward pass; the runner sets it.
    """

    def __init__(self, cache: KVCache, attend: Attention) -> None:
        self.cache = cache
        self.step: Step | None = None
        self._attend = attend

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
        self._attend(step, layer, tokens, output)
        return output[None], None
