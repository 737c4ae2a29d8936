"""Whole layers of known models are replaced by our own kernels' layers, once these agree.

Each layer is tried on what a probe gives it, a prompt and then one more token: if both outputs are
those of the model's own layer it is replaced, else it stays.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.activations import GELUTanh, NewGELUActivation, SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.cpu_layers.native_layer import LayerParts, NativeKind, NativeLayer
from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.kernels.bindings import MAX_GROUP, PANEL, CpuKernels
from src.engine.model.compatibility import probe_pieces
from src.engine.model.loader import LoadedModel
from src.engine.model.runner import ModelRunner

logger = logging.getLogger(__name__)

TOLERANCES = {NativeLinear: 1e-4, NativeInt8Linear: 0.02}
"""Largest difference of what a layer adds, as a share of it: an input at the edge of two integers
may be rounded to either."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the parts of a layer are called.

    Args:
        model_types: of transformers' models that are made of such layers, and of nothing that a
            probe might not show.
        attention: the module, and so on.
        qkv: one, or three that can be one.
        up: one, or a gate and what it is for.
    """

    model_types: frozenset[str]
    attention: str
    attention_norm: str
    qkv: tuple[str, ...]
    output: str
    mlp: str
    mlp_norm: str
    up: tuple[str, ...]
    down: str
    activation: str


BLUEPRINTS = (
    Blueprint(
        model_types=frozenset(["gpt2"]),
        attention="attn",
        attention_norm="ln_1",
        qkv=("c_attn",),
        output="c_proj",
        mlp="mlp",
        mlp_norm="ln_2",
        up=("c_fc",),
        down="c_proj",
        activation="act",
    ),
    Blueprint(
        model_types=frozenset(["llama", "mistral", "qwen2", "qwen3", "smollm3"]),
        attention="self_attn",
        attention_norm="input_layernorm",
        qkv=("q_proj", "k_proj", "v_proj"),
        output="o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        up=("gate_proj", "up_proj"),
        down="down_proj",
        activation="act_fn",
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer was given, and what it gave."""

    given: tuple[Any, ...]
    named: dict[str, Any]
    output: Any


@torch.inference_mode()
def fuse_layers(loaded: LoadedModel, runner: ModelRunner, library: CpuKernels) -> int:
    """Replaces in place the layers that agree; returns how many.

    Args:
        loaded: its linear layers and its attention are replaced already.
        runner: of the model; a slot of its cache is used.
        library: our own kernels.
    """
    blueprint = next(
        (b for b in BLUEPRINTS if loaded.model.config.model_type in b.model_types), None
    )
    if blueprint is None:
        return 0
    fused: dict[str, NativeLayer] = {}
    layers = {
        name: layer
        for name, layer in loaded.model.named_modules()
        if isinstance(getattr(layer, blueprint.attention, None), nn.Module)
    }
    for number, piece in enumerate(probe_pieces(loaded)):
        with record(loaded, runner, layers) as (calls, options):
            runner.forward([piece], [piece.num_tokens - 1])
        if number == 0:
            fused = create_layers(layers, blueprint, calls, options, runner, library)
        fused = {name: layer for name, layer in fused.items() if agrees(layer, calls[name])}
    for name, layer in fused.items():
        loaded.model.set_submodule(name, layer)
    logger.info("%d of %d layers run as one operation each", len(fused), len(layers))
    return len(fused)


@contextmanager
def record(
    loaded: LoadedModel, runner: ModelRunner, layers: dict[str, nn.Module]
) -> Iterator[tuple[dict[str, Call], dict[int, dict[str, Any]]]]:
    """Yields what the layers, by name, and attention, by its layer's index, are called with."""
    calls: dict[str, Call] = {}
    options: dict[int, dict[str, Any]] = {}
    attention = runner.attention  # transformers keeps the function, and it must not keep the model

    def attend(module: nn.Module, *given: Any, **named: Any) -> tuple[torch.Tensor, None]:
        assert isinstance(module.layer_idx, int)
        options[module.layer_idx] = named
        return attention(module, *given, **named)

    def hook(name: str) -> Any:
        def note(_: nn.Module, given: Any, named: Any, output: Any) -> None:
            calls[name] = Call(given, named, output)

        return note

    hooks = [
        layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()
    ]
    own_attention = loaded.model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("engine-record", attend)
    loaded.model.set_attn_implementation("engine-record")
    try:
        yield calls, options
    finally:
        loaded.model.set_attn_implementation(own_attention)
        for one in hooks:
            one.remove()


def create_layers(
    layers: dict[str, nn.Module],
    blueprint: Blueprint,
    calls: dict[str, Call],
    options: dict[int, dict[str, Any]],
    runner: ModelRunner,
    library: CpuKernels,
) -> dict[str, NativeLayer]:
    """Our own layers for those that are made as the blueprint says."""
    created = {}
    for name, layer in layers.items():
        index = getattr(layer, blueprint.attention).layer_idx
        parts = find_parts(layer, blueprint, calls[name], options[index], library)
        num_kv_heads = runner.attention.cache.keys[index].shape[2]
        if parts is not None and parts.num_heads <= MAX_GROUP * num_kv_heads:
            created[name] = NativeLayer(parts, index, runner.attention, library)
    return created


def find_parts(
    layer: nn.Module, blueprint: Blueprint, call: Call, options: dict[str, Any], library: CpuKernels
) -> LayerParts | None:
    """What a layer is made of; None if our kernels are not for it."""
    attention, mlp = getattr(layer, blueprint.attention), getattr(layer, blueprint.mlp)
    linears = [
        [getattr(attention, name) for name in blueprint.qkv],
        [getattr(attention, blueprint.output)],
        [getattr(mlp, name) for name in blueprint.up],
        [getattr(mlp, blueprint.down)],
    ]
    kinds = {type(linear) for group in linears for linear in group}
    activation = find_activation(getattr(mlp, blueprint.activation))
    if kinds not in ({NativeLinear}, {NativeInt8Linear}) or activation is None:
        return None
    if options.get("softcap") is not None or options.get("s_aux") is not None:
        return None
    dims = [attention.head_dim, linears[1][0].in_features, linears[3][0].in_features]
    if any(dim % PANEL for dim in [*dims, linears[0][0].in_features]):
        return None
    angles = call.named.get("position_embeddings")
    qkv, output, up, down = (merge(group, library) for group in linears)
    return LayerParts(
        attention_norm=getattr(layer, blueprint.attention_norm),
        query_norm=getattr(attention, "q_norm", None),
        key_norm=getattr(attention, "k_norm", None),
        mlp_norm=getattr(layer, blueprint.mlp_norm),
        qkv=qkv,
        output=output,
        up=up,
        down=down,
        activation=activation,
        gated=len(blueprint.up) == 2,
        rotary_dim=0 if angles is None else angles[0].shape[-1],
        num_heads=output.in_features // attention.head_dim,
        scaling=options["scaling"],
        window=options.get("sliding_window"),
    )


def find_activation(module: nn.Module) -> str | None:
    """Its name among those that our kernels have."""
    if isinstance(module, SiLUActivation | nn.SiLU):
        return "silu"
    if isinstance(module, NewGELUActivation | GELUTanh):
        return "gelu_tanh"
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    return None


def merge(linears: list[NativeKind], library: CpuKernels) -> NativeKind:
    """One layer that gives what these give, side by side."""
    first, *others = linears
    if not others:
        return first
    bias = None
    if any(linear.bias is not None for linear in linears):
        bias = torch.cat(
            [torch.zeros(one.out_features) if one.bias is None else one.bias for one in linears]
        )
    return type(first)(torch.cat([linear.weight for linear in linears]), bias, library)


def agrees(layer: NativeLayer, call: Call) -> bool:
    """Whether it gives what the layer that it is to replace gave."""
    before = call.given[0] if call.given else call.named["hidden_states"]
    if not isinstance(call.output, torch.Tensor):
        return False
    found = layer(*call.given, **call.named)
    allowed = TOLERANCES[type(layer.parts.qkv)] * (call.output - before).norm()
    return bool((found - call.output).norm() <= allowed)
