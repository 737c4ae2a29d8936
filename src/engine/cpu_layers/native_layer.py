"""A whole decoder layer as one call of our own kernels.

Between the GEMMs of a decoding step there are few numbers: norms, activations, rotated heads. Each
PyTorch operation on them costs more for its call than for its arithmetic, and HuggingFace's code
makes about a hundred a layer.
"""

from dataclasses import dataclass

import torch
from torch import nn

from src.engine.attention.layer import AttentionOptions
from src.engine.attention.packed_attention import PackedAttention
from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.kernels.arguments import CachePlaces, RotaryAngles
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.structs import ACTIVATIONS, LayerData, NormData, address

NativeLinearLayer = NativeLinear | NativeInt8Linear


@dataclass(frozen=True, slots=True)
class LayerParts:
    """Modules and options of a decoder layer.

    Args:
        attention_norm: before attention; RMS or layer norm.
        query_norm: of each query head, or None.
        key_norm: of each key head, or None.
        mlp_norm: before the MLP.
        qkv: queries, keys and values side by side.
        output: of attention.
        up: into the MLP; with a gate it has twice the width, the gate first.
        down: out of the MLP.
        activation: one of ACTIVATIONS.
        is_gated: the activation is applied to the gate.
        rotary_dim: first numbers of a head that RoPE rotates; 0: none.
        num_heads: query heads.
        attention: plain attention's options.
    """

    attention_norm: nn.Module
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    mlp_norm: nn.Module
    qkv: NativeLinearLayer
    output: NativeLinearLayer
    up: NativeLinearLayer
    down: NativeLinearLayer
    activation: str
    is_gated: bool
    rotary_dim: int
    num_heads: int
    attention: AttentionOptions


class NativeLayer(nn.Module):
    """Replaces a decoder layer, with the same call.

    Args:
        parts: modules of the replaced layer.
        layer_idx: index of its KV cache.
        attention: of the model's runner; it knows the current step.
        kernels: they compute the layer.
    """

    def __init__(
        self, parts: LayerParts, layer_idx: int, attention: PackedAttention, kernels: CpuKernels
    ) -> None:
        super().__init__()
        self.layer_idx = layer_idx  # read by PackedAttention
        self.parts = parts
        self._attention, self._kernels = attention, kernels
        self._data = self._layer_data()

    def _layer_data(self) -> LayerData:
        parts, cache = self.parts, self._attention.cache
        return LayerData(
            attention_norm=_norm_data(parts.attention_norm),
            query_norm=_norm_data(parts.query_norm),
            key_norm=_norm_data(parts.key_norm),
            mlp_norm=_norm_data(parts.mlp_norm),
            qkv=parts.qkv.data,
            output=parts.output.data,
            up=parts.up.data,
            down=parts.down.data,
            attention=self._kernels.attention_data(
                parts.num_heads,
                cache.keys[self.layer_idx],
                cache.values[self.layer_idx],
                parts.attention.scaling,
                parts.attention.window,
            ),
            rotary_dim=parts.rotary_dim,
            activation=ACTIVATIONS.index(parts.activation),
            is_gated=parts.is_gated,
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        *_: object,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **__: object,
    ) -> torch.Tensor:
        """Maps (1, num_tokens, size) to the same shape."""
        step = self._attention.step
        assert step is not None
        hidden = hidden_states[0].contiguous()
        angles = RotaryAngles(None, None)
        if self.parts.rotary_dim:
            assert position_embeddings is not None
            cosine, sine = position_embeddings
            angles = RotaryAngles(cosine[0].contiguous(), sine[0].contiguous())
        if not step.has_prefills:
            places = CachePlaces(step.block_tables, step.positions)
            return self._kernels.decode_layer(self._data, hidden, angles, places)[None]
        projected = self._kernels.project_layer(self._data, hidden, angles)
        attended = self._attend(projected)
        return self._kernels.complete_layer(self._data, hidden, attended)[None]

    def _attend(self, projected: torch.Tensor) -> torch.Tensor:
        """Maps (num_tokens, heads of qkv) to (1, num_tokens, num_heads, value_dim)."""
        data, options = self._data.attention, self.parts.attention
        heads = [
            (data.num_heads, data.key_dim),
            (data.num_kv_heads, data.key_dim),
            (data.num_kv_heads, data.value_dim),
        ]
        parts = torch.split(projected, [count * dim for count, dim in heads], dim=1)
        query, key, value = (
            part.view(1, len(part), count, dim).transpose(1, 2)
            for part, (count, dim) in zip(parts, heads, strict=True)
        )
        attended, _ = self._attention(
            self, query, key, value, None, scaling=options.scaling, sliding_window=options.window
        )
        return attended


def _norm_data(norm: nn.Module | None) -> NormData:
    if norm is None:
        return NormData()
    weight = norm.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(norm, nn.LayerNorm):
        return NormData(
            weight=address(weight),
            bias=address(norm.bias),
            size=weight.numel(),
            subtracts_mean=True,
            epsilon=norm.eps,
        )
    return NormData(weight=address(weight), size=weight.numel(), epsilon=norm.variance_epsilon)
