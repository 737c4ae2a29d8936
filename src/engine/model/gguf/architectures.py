"""Translation of GGUF's architectures to transformers': configs, names and layouts of weights.

An entry or a tensor that is not known here is refused: without it the model would be another one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from src.engine.model.gguf.entries import (
    architecture_name,
    entry,
    gemma3_entries,
    gpt2_entries,
    llama_entries,
    unsupported,
)
from src.engine.model.gguf.reader import GgufFile
from src.engine.model.source import REMEDY, one_line
from src.errors import ModelLoadError

Convert = Callable[[str, torch.Tensor, PreTrainedConfig], torch.Tensor]
"""Returns a tensor in transformers' layout, from its name and values in the file."""

SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
KNOWN_ENTRIES = frozenset(SIZES) | {
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "vocab_size",
}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Entries with defaults in transformers that fit one checkpoint alone."""

MODEL_MODULES = {
    "token_embd": "model.embed_tokens",  # nosec - no secret, but an embedding
    "output_norm": "model.norm",
}
LAYER_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def keep(name: str, weight: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Returns a tensor as it is."""
    return weight


def group_rotary_halves(name: str, weight: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Undoes llama.cpp's layout of queries and keys, which puts rotated pairs side by side."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    num_heads = heads.get(name.split(".")[-2])
    if num_heads is None:
        return weight
    pairs = weight.view(num_heads, -1, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def center_norms(name: str, weight: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Subtracts the one that llama.cpp adds to Gemma's norms."""
    return weight.float() - 1 if name.endswith("norm.weight") else weight


def transpose_linears(name: str, weight: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Transposes the weights of gpt2's `Conv1D` layers."""
    is_linear = name.endswith(("qkv.weight", "attn_output.weight", "up.weight", "down.weight"))
    return weight.T.contiguous() if is_linear else weight


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture of GGUF, as transformers has it.

    Args:
        model_type: of the config.
        model_class: name of the class with a head for language modeling.
        create_entries: returns the entries of the config beside `SIZES`.
        convert: changes the layout of a tensor.
        modules: names of modules, GGUF's to transformers'.
        layer: prefix of a layer's modules, with a place for its number.
        layer_modules: names of modules in a layer.
        entries: further entries of the metadata that are known.
    """

    model_type: str
    model_class: str
    create_entries: Callable[[GgufFile], dict[str, Any]]
    convert: Convert = keep
    modules: Mapping[str, str] = field(default_factory=MODEL_MODULES.copy)
    layer: str = "model.layers.{}"
    layer_modules: Mapping[str, str] = field(default_factory=LAYER_MODULES.copy)
    entries: frozenset[str] = frozenset()


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", llama_entries, group_rotary_halves),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", llama_entries, group_rotary_halves),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", llama_entries),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", llama_entries),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        gemma3_entries,
        center_norms,
        layer_modules={
            **LAYER_MODULES,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        entries=frozenset(["attention.sliding_window", "rope.freq_base_swa"]),
    ),
    "gpt2": Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        gpt2_entries,
        transpose_linears,
        modules={
            "token_embd": "transformer.wte",  # nosec - as above
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
        },
        layer="transformer.h.{}",
        layer_modules={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        entries=frozenset(["attention.layer_norm_epsilon"]),
    ),
}
"""By the names of GGUF; models of Mistral have the name llama there."""


def find_architecture(file: GgufFile) -> Architecture:
    """Returns the architecture of a file.

    Raises:
        ModelLoadError: it is not known, or has an entry that is not.
    """
    name = architecture_name(file)
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise ModelLoadError(
            f"{file.path} has the architecture {name}; those that can be read from GGUF files here"
            f" are {', '.join(ARCHITECTURES)}. Fetch the model in safetensors form. {REMEDY}"
        )
    entries = {key.removeprefix(f"{name}.") for key in file.metadata if key.startswith(f"{name}.")}
    unknown = sorted(entries - KNOWN_ENTRIES - architecture.entries)
    if unknown:
        raise unsupported(file, ", ".join(f"{name}.{one}" for one in unknown[:3]))
    return architecture


def create_config(file: GgufFile, special_ids: Mapping[str, Any]) -> PreTrainedConfig:
    """Returns the config of the model in a file.

    Args:
        file: read as far as its header.
        special_ids: token ids, by the names of their entries.

    Raises:
        ModelLoadError: the file has no such model, or one that is not known here.
    """
    architecture = find_architecture(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelLoadError(
            f"{file.path} has no embeddings (token_embd.weight): it is no language model, such as"
            f" the part of one that reads images. Give the file of the model itself. {REMEDY}"
        )
    values = {name: entry(file, key) for key, name in SIZES.items()}
    values |= architecture.create_entries(file)
    values |= {
        "architectures": [architecture.model_class],
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{name: special_ids.get(name) for name in TOKEN_IDS},
    }
    try:
        return AutoConfig.for_model(architecture.model_type, **values)
    except Exception as error:  # the library raises whatever its checks raise
        raise ModelLoadError(
            f"The metadata of {file.path} cannot be used ({one_line(error)}). Fetch the file again."
            f" {REMEDY}"
        ) from error


def weight_name(file: GgufFile, architecture: Architecture, name: str) -> str:
    """Returns transformers' name of a weight.

    Raises:
        ModelLoadError: the architecture has no such weight.
    """
    module, _, kind = name.rpartition(".")
    translated = {**architecture.modules, "output": "lm_head"}.get(module)
    if module.startswith("blk."):
        _, number, inner = module.split(".", 2)
        known = architecture.layer_modules.get(inner)
        translated = known and f"{architecture.layer.format(number)}.{known}"
    if not translated:
        raise unsupported(file, f"the tensor {name}")
    return f"{translated}.{kind}"
