"""A decoder's whole layer on our own kernels: one call where HuggingFace's code makes a hundred.

What is between the products of a step that decodes are few numbers: norms, activations, turned
heads. Each operation on them costs more for being called than for what it computes.
"""

from dataclasses import dataclass

import torch
from torch import nn

from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.structs import ACTIVATIONS, LayerData, NormData, address
from src.engine.model.attention import PackedAttention

NativeKind = NativeLinear | NativeInt8Linear


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer is made of.

    Args:
        attention_norm: before attention; RMS or layer norm.
        query_norm: of each head, if there is one.
        key_norm: likewise.
        mlp_norm: after attention.
        qkv: queries, keys and values in one.
        output: of attention.
        up: into the inner size; of twice that with a gate, which comes first.
        down: out of it.
        activation: one of ACTIVATIONS.
        gated: whether the activation is of the gate.
        rotary_dim: numbers of each head that turn with its position; 0 if none do.
        num_heads: of queries.
        scaling: of attention's scores.
        window: a token sees itself and so many minus one before it; None: all.
    """

    attention_norm: nn.Module
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    mlp_norm: nn.Module
    qkv: NativeKind
    output: NativeKind
    up: NativeKind
    down: NativeKind
    activation: str
    gated: bool
    rotary_dim: int
    num_heads: int
    scaling: float
    window: int | None


class NativeLayer(nn.Module):
    """Takes the place of a layer, and is called as that is.

    Args:
        parts: what it is made of.
        layer_idx: as the model's attention calls it.
        attention: of the step.
        library: our own kernels.
    """

    def __init__(
        self, parts: LayerParts, layer_idx: int, attention: PackedAttention, library: CpuKernels
    ) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.parts = parts
        self._attention, self._library = attention, library
        self._data = self._layer_data()

    def _layer_data(self) -> LayerData:
        parts, cache, index = self.parts, self._attention.cache, self.layer_idx
        return LayerData(
            *(_norm_data(parts.attention_norm), _norm_data(parts.query_norm)),
            *(_norm_data(parts.key_norm), _norm_data(parts.mlp_norm)),
            *(parts.qkv.data, parts.output.data, parts.up.data, parts.down.data),
            self._library.attention_data(
                *(parts.num_heads, cache.keys[index], cache.values[index]),
                *(parts.scaling, parts.window or 0),
            ),
            *(parts.rotary_dim, ACTIVATIONS.index(parts.activation), parts.gated),
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        *_: object,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **__: object,
    ) -> torch.Tensor:
        """(1, num_tokens, size) to the same."""
        step = self._attention.step
        assert step is not None
        hidden = hidden_states[0].contiguous()
        cosine = sine = hidden  # not looked at
        if self.parts.rotary_dim:
            assert position_embeddings is not None
            cosine, sine = (given[0].contiguous() for given in position_embeddings)
        if not step.prefills:
            return self._library.decode_layer(
                self._data, hidden, cosine, sine, step.slots, step.positions
            )[None]
        projected = self._library.project_layer(self._data, hidden, cosine, sine)
        attended = self._attend(projected)
        return self._library.complete_layer(self._data, hidden, attended)[None]

    def _attend(self, projected: torch.Tensor) -> torch.Tensor:
        """(num_tokens, heads of all) to (1, num_tokens, num_heads, value_dim)."""
        data, parts = self._data.attention, self.parts
        dims = data.key_dim, data.key_dim, data.value_dim
        heads = data.num_heads, data.num_kv_heads, data.num_kv_heads
        sizes = [number * dim for number, dim in zip(heads, dims, strict=True)]
        query, key, value = (
            given.view(1, len(given), -1, dim).transpose(1, 2)
            for given, dim in zip(torch.split(projected, sizes, dim=1), dims, strict=True)
        )
        attended, _ = self._attention(self, query, key, value, None, parts.scaling, parts.window)
        return attended


def _norm_data(norm: nn.Module | None) -> NormData:
    if norm is None:
        return NormData()
    weight = norm.weight
    assert isinstance(weight, torch.Tensor)
    centred = isinstance(norm, nn.LayerNorm)
    epsilon = norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    return NormData(address(weight), address(bias), weight.numel(), centred, epsilon)
