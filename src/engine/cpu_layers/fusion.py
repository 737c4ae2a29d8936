"""Layer fusion: replaces decoder layers of known models by layers of our own kernels.

Each layer is tried on the inputs that a probe gives it, a prompt and then one more token. It is
replaced if both outputs agree with those of the model's own layer; else it stays.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import GELUTanh, NewGELUActivation, SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.attention.layer import AttentionOptions
from src.engine.cpu_layers.native_layer import LayerParts, NativeLayer, NativeLinearLayer
from src.engine.cpu_layers.native_linear import (
    NativeInt8Linear,
    NativeLinear,
    join_native_linears,
)
from src.engine.kernels.bindings import MAX_HEADS_PER_KV_HEAD, CpuKernels
from src.engine.kernels.packing import PANEL
from src.engine.model.compatibility import probe_pieces
from src.engine.model.loader import LoadedModel
from src.engine.model.memory import release_free_memory
from src.engine.model.runner import ModelRunner
from src.engine.progress import log_phase

logger = logging.getLogger(__name__)

TOLERANCES = {NativeLinear: 1e-4, NativeInt8Linear: 0.02}
"""Largest difference, as a share of what a layer adds to its input.

In int8 an input halfway between two integers may be rounded to either.
"""


@dataclass(frozen=True, slots=True)
class LayerSchema:
    """Attribute names of a decoder layer's modules.

    Args:
        model_types: transformers' models with such layers. They do nothing that a probe could miss.
        attention: of the layer; qkv, output are of the attention.
        qkv: one module, or three that can be joined.
        mlp: of the layer; up, down and activation are of the MLP.
        up: one module, or a gate and the module that it gates.
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


SCHEMAS = (
    LayerSchema(
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
    LayerSchema(
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
class DecoderLayerLinears:
    """Linear layers of a decoder layer, before those that can be joined are."""

    qkv: list[NativeLinearLayer]
    output: NativeLinearLayer
    up: list[NativeLinearLayer]
    down: NativeLinearLayer


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call of a decoder layer, with the options of its attention."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    output: object
    attention: AttentionOptions

    @property
    def hidden_states(self) -> torch.Tensor:
        hidden_states = self.args[0] if self.args else self.kwargs["hidden_states"]
        assert isinstance(hidden_states, torch.Tensor)
        return hidden_states

    @property
    def rotary_dim(self) -> int:
        angles = self.kwargs.get("position_embeddings")
        if angles is None:
            return 0
        assert isinstance(angles, tuple)
        cosine: torch.Tensor = angles[0]
        return cosine.shape[-1]


@torch.inference_mode()
def fuse_layers(kernels: CpuKernels, loaded: LoadedModel, runner: ModelRunner) -> int:
    """Replaces in place the layers that agree; returns their number.

    Args:
        kernels: they compute the fused layers.
        loaded: its linear layers and its attention are replaced already.
        runner: of the model; the probe uses blocks of its cache.
    """
    schema = next((s for s in SCHEMAS if loaded.model.config.model_type in s.model_types), None)
    if schema is None:
        return 0
    layers = {
        name: layer
        for name, layer in loaded.model.named_modules()
        if isinstance(getattr(layer, schema.attention, None), nn.Module)
    }
    with log_phase("fusing layers"):
        fused = _find_fused(kernels, loaded, runner, layers, schema)
    for name, layer in fused.items():
        loaded.model.set_submodule(name, layer)
    release_free_memory()
    logger.info("%d of %d layers run as one operation each", len(fused), len(layers))
    return len(fused)


def _find_fused(
    kernels: CpuKernels,
    loaded: LoadedModel,
    runner: ModelRunner,
    layers: dict[str, nn.Module],
    schema: LayerSchema,
) -> dict[str, NativeLayer]:
    """Returns fused layers, by name, that agree with the model's own."""
    fused: dict[str, NativeLayer] = {}
    for number, piece in enumerate(probe_pieces(loaded, runner.attention.cache.layout.block_size)):
        with record_calls(loaded, runner, layers, schema) as calls:
            runner.forward([piece], [piece.num_tokens - 1])
        if number == 0:
            for name, layer in layers.items():
                native = create_layer(kernels, layer, schema, calls[name], runner)
                if native is not None:
                    fused[name] = native
        fused = {name: layer for name, layer in fused.items() if agrees(layer, calls[name])}
    return fused


@contextmanager
def record_calls(
    loaded: LoadedModel, runner: ModelRunner, layers: dict[str, nn.Module], schema: LayerSchema
) -> Iterator[dict[str, RecordedCall]]:
    """Yields a dict that gets the next call of each layer, by the layer's name."""
    calls: dict[str, RecordedCall] = {}
    options: dict[nn.Module, AttentionOptions] = {}
    # A local, as transformers keeps the registered function, which must not keep the model alive.
    attention = runner.attention

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, None]:
        options[module] = AttentionOptions.from_kwargs(query.shape[-1], kwargs)
        return attention(module, query, key, value, attention_mask, **kwargs)

    def add_hook(name: str, layer: nn.Module) -> RemovableHandle:
        def record(
            _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
        ) -> None:
            calls[name] = RecordedCall(
                args, kwargs, output, options[getattr(layer, schema.attention)]
            )

        return layer.register_forward_hook(record, with_kwargs=True)

    hooks = [add_hook(name, layer) for name, layer in layers.items()]
    original = loaded.model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("engine-record", attend)
    loaded.model.set_attn_implementation("engine-record")
    try:
        yield calls
    finally:
        options.clear()
        loaded.model.set_attn_implementation(original)
        for hook in hooks:
            hook.remove()


def create_layer(
    kernels: CpuKernels,
    layer: nn.Module,
    schema: LayerSchema,
    call: RecordedCall,
    runner: ModelRunner,
) -> NativeLayer | None:
    """Creates a native layer of a layer's modules; None if the kernels do not support it."""
    parts = find_parts(kernels, layer, schema, call)
    index = getattr(layer, schema.attention).layer_idx
    num_kv_heads = runner.attention.cache.keys[index].shape[2]
    if parts is None or parts.num_heads > MAX_HEADS_PER_KV_HEAD * num_kv_heads:
        return None
    return NativeLayer(parts, index, runner.attention, kernels)


def find_parts(
    kernels: CpuKernels, layer: nn.Module, schema: LayerSchema, call: RecordedCall
) -> LayerParts | None:
    """Finds the modules of a layer; None if the kernels do not support one of them."""
    attention, mlp = getattr(layer, schema.attention), getattr(layer, schema.mlp)
    linears = find_linears(attention, mlp, schema)
    activation = find_activation(getattr(mlp, schema.activation))
    if linears is None or activation is None or not call.attention.is_plain:
        return None
    inner_sizes = (linears.qkv[0].in_features, linears.output.in_features, linears.down.in_features)
    if any(size % PANEL for size in (attention.head_dim, *inner_sizes)):
        return None
    return LayerParts(
        attention_norm=getattr(layer, schema.attention_norm),
        query_norm=getattr(attention, "q_norm", None),
        key_norm=getattr(attention, "k_norm", None),
        mlp_norm=getattr(layer, schema.mlp_norm),
        qkv=join_linears(linears.qkv, kernels),
        output=linears.output,
        up=join_linears(linears.up, kernels),
        down=linears.down,
        activation=activation,
        is_gated=len(linears.up) == 2,
        rotary_dim=call.rotary_dim,
        num_heads=linears.output.in_features // attention.head_dim,
        attention=call.attention,
    )


def find_linears(
    attention: nn.Module, mlp: nn.Module, schema: LayerSchema
) -> DecoderLayerLinears | None:
    """Finds a layer's linear layers; None if they are not all of the same native class."""
    qkv = [getattr(attention, name) for name in schema.qkv]
    output = getattr(attention, schema.output)
    up = [getattr(mlp, name) for name in schema.up]
    down = getattr(mlp, schema.down)
    classes = {type(linear) for linear in (*qkv, output, *up, down)}
    if classes not in ({NativeLinear}, {NativeInt8Linear}):
        return None
    return DecoderLayerLinears(qkv, output, up, down)


def find_activation(module: nn.Module) -> str | None:
    """Returns the kernels' name of an activation; None if they do not have it."""
    if isinstance(module, SiLUActivation | nn.SiLU):
        return "silu"
    if isinstance(module, NewGELUActivation | GELUTanh):
        return "gelu_tanh"
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    return None


def join_linears(linears: list[NativeLinearLayer], kernels: CpuKernels) -> NativeLinearLayer:
    """Creates one layer with the outputs of several layers side by side."""
    first, *others = linears
    if not others:
        return first
    bias = None
    if any(linear.bias is not None for linear in linears):
        biases = [
            torch.zeros(linear.out_features) if linear.bias is None else linear.bias
            for linear in linears
        ]
        bias = torch.cat(biases)
    return join_native_linears(linears, bias, kernels)


def agrees(layer: NativeLayer, call: RecordedCall) -> bool:
    """Checks that a layer gives the recorded output, within its tolerance."""
    if not isinstance(call.output, torch.Tensor):
        return False
    output = layer(*call.args, **call.kwargs)
    tolerance = TOLERANCES[type(layer.parts.qkv)] * (call.output - call.hidden_states).norm()
    return bool((output - call.output).norm() <= tolerance)
