"""GGUF files of tiny models, written as llama.cpp's converter does.

Names of tensors come from the package `gguf`, so that they are not those of the code under test.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as TensorFormat
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.support.tiny_models import GROUPED_HEADS, SHAPE, SLIDING, WIDE_HEADS, create_tokenizer

GROUPED = GROUPED_HEADS | WIDE_HEADS
SHAPES = {
    "llama": GROUPED,
    "qwen2": GROUPED_HEADS,
    "qwen3": GROUPED,
    "smollm3": GROUPED_HEADS | {"num_hidden_layers": 4},
    "gemma3": SLIDING | WIDE_HEADS | {"num_hidden_layers": 6, "query_pre_attn_scalar": 16},
    "gpt2": SHAPE,
}
"""By GGUF's names; the numbers of layers show each kind of layer."""

MODEL_TYPES = {"gemma3": "gemma3_text"}

NORMAL, CONTROL = 1, 3
"""Types of tokens."""


def create_model(architecture: str, **changes: object) -> PreTrainedModel:
    """Creates a random model in which each parameter matters."""
    torch.manual_seed(0)
    model_type = MODEL_TYPES.get(architecture, architecture)
    config = AutoConfig.for_model(model_type, **SHAPES[architecture] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    tensor_format: TensorFormat = TensorFormat.F32,
    changes: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """Writes a model with its tokenizer.

    Args:
        path: of the file; a name of a split model is split by its number of files.
        model: as of `create_model`.
        architecture: GGUF's name.
        tensor_format: of the matrices; everything else is float32.
        changes: metadata instead of that of the model; None drops an entry.
        tokenizer: byte-level BPE; None takes that of all tiny models.
    """
    metadata = metadata_of(model.config, architecture)
    metadata |= tokenizer_metadata(tokenizer or create_tokenizer()) | (changes or {})
    num_files = int(path.stem[-5:]) if "-of-" in path.stem else 0
    writer = gguf.GGUFWriter(None, architecture, split_max_tensors=num_files and 10)
    for key, value in metadata.items():
        add_value(writer, key, value)
    for name, weight in tensors_of(model, architecture).items():
        is_matrix = weight.ndim > 1
        kept = tensor_format if is_matrix else TensorFormat.F32
        writer.add_tensor(name, gguf.quantize(weight, kept), raw_dtype=kept)
    unnumbered = path.with_name(path.stem[:-15] + path.suffix)
    writer.write_header_to_file(unnumbered if num_files else path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def metadata_of(config: PreTrainedConfig, architecture: str) -> dict[str, Any]:
    """Returns a config in GGUF's names."""
    entries: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
    }
    if architecture == "gpt2":
        entries["feed_forward_length"] = 4 * config.hidden_size
        entries["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
    else:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // 4
        entries |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "rope.dimension_count": head_dim,
        }
    if architecture == "gemma3":
        entries |= {"attention.sliding_window": config.sliding_window, "rope.freq_base": 1e6}
    elif architecture != "gpt2":
        entries["rope.freq_base"] = config.rope_parameters["rope_theta"]
    return {f"{architecture}.{name}": value for name, value in entries.items()}


def tokenizer_metadata(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Returns a byte-level BPE in GGUF's names."""
    backend = tokenizer.backend_tokenizer
    assert isinstance(backend.decoder, ByteLevel)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    merges = [" ".join(pair) for pair in merges_of(tokenizer)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if one in special else NORMAL for one in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
    }


def merges_of(tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """Returns the pairs that a BPE merges, first ones first."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def add_value(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    """Adds an entry of the metadata in the type that llama.cpp's converter takes."""
    if value is None:
        return
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adders |= {str: writer.add_string, list: writer.add_array}
    adders[type(value)](key, value)


def tensors_of(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """Returns the weights in llama.cpp's names and layouts."""
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        translated = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert translated is not None, name
        tensors[translated] = convert(name, weight.numpy(), architecture, model.config)
    return tensors


def convert(
    name: str, weight: np.ndarray, architecture: str, config: PreTrainedConfig
) -> np.ndarray:
    """Returns a weight in llama.cpp's layout."""
    if architecture in {"llama", "smollm3"} and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return weight + 1
    if architecture == "gpt2" and weight.ndim > 1 and ".h." in name:
        return np.ascontiguousarray(weight.T)
    return weight
