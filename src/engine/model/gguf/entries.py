"""Entries of a GGUF file's metadata, as entries of transformers' configs."""

from typing import Any

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from src.engine.model.generation_config import SamplingEntries, SamplingEntry
from src.engine.model.gguf.reader import GgufFile
from src.engine.model.source import REMEDY
from src.errors import ModelLoadError

ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the RoPE frequencies, for each pair of a head's dimensions."""

SAMPLING_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Sampling parameters to their keys, by llama.cpp's names."""

NUM_DIGITS = 7  # of a float32, which is how a file keeps 0.6


def architecture_name(file: GgufFile) -> str:
    """Returns the architecture that a file names, or a question mark."""
    return str(file.metadata.get("general.architecture", "?"))


def entry(file: GgufFile, name: str, default: float | None = None) -> Any:
    """Returns a number of the architecture's metadata.

    Raises:
        ModelLoadError: it is missing without a default, or is not a single number.
    """
    key = f"{architecture_name(file)}.{name}"
    value = file.metadata.get(key, default)
    if isinstance(value, int | float):
        return value
    raise ModelLoadError(
        f"{file.path} gives {key} as {str(value)[:60]}, where one number is needed. Models with"
        f" layers that differ in it cannot be read here; fetch them in safetensors form. {REMEDY}"
    )


def sampling_entries(file: GgufFile) -> SamplingEntries:
    """Returns the metadata that give sampling parameters, by their keys."""
    entries = {}
    for name, key in SAMPLING_KEYS.items():
        value = file.metadata.get(key)
        if isinstance(value, float):
            value = float(f"{value:.{NUM_DIGITS}g}")
        if value is not None:
            entries[name] = SamplingEntry(file.path.name, key, value)
    return entries


def unsupported(file: GgufFile, part: str) -> ModelLoadError:
    """Creates the error for a part of a model that is not known here."""
    return ModelLoadError(
        f"{file.path} is a model of the architecture {architecture_name(file)} with {part}, which"
        f" cannot be read from GGUF files here. Fetch the model in safetensors form. {REMEDY}"
    )


def llama_entries(file: GgufFile) -> dict[str, Any]:
    """Returns entries of the config for models like llama."""
    head_dim = _head_dim(file)
    if entry(file, "rope.dimension_count", head_dim) != head_dim:
        raise unsupported(file, "RoPE on a part of each head")
    return {
        "num_key_value_heads": _num_kv_heads(file),
        "head_dim": head_dim,
        "rms_norm_eps": entry(file, "attention.layer_norm_rms_epsilon"),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "rope_parameters": _rope_parameters(file, head_dim),
    }


def gemma3_entries(file: GgufFile) -> dict[str, Any]:
    """Returns entries of the config for Gemma 3; llama.cpp has the constants in its code too."""
    head_dim, num_layers = _head_dim(file), entry(file, "block_count")
    theta = entry(file, "rope.freq_base", 1e6)
    local_theta = entry(file, "rope.freq_base_swa", 1e4)
    hidden_size, num_heads = entry(file, "embedding_length"), entry(file, "attention.head_count")
    return {
        "num_key_value_heads": _num_kv_heads(file),
        "head_dim": head_dim,
        "query_pre_attn_scalar": hidden_size // num_heads if num_layers == 62 else head_dim,  # 27B
        "rms_norm_eps": entry(file, "attention.layer_norm_rms_epsilon"),
        "sliding_window": entry(file, "attention.sliding_window"),
        "rope_parameters": {
            "full_attention": _scaling(file) | {"rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
        },
    }


def gpt2_entries(file: GgufFile) -> dict[str, Any]:
    """Returns entries of the config for gpt2."""
    return {
        "n_inner": entry(file, "feed_forward_length"),
        "layer_norm_epsilon": entry(file, "attention.layer_norm_epsilon"),
    }


def _head_dim(file: GgufFile) -> int:
    default = entry(file, "embedding_length") // entry(file, "attention.head_count")
    head_dim = int(entry(file, "attention.key_length", default))
    if entry(file, "attention.value_length", head_dim) != head_dim:
        raise unsupported(file, "values of another size than its keys")
    return head_dim


def _num_kv_heads(file: GgufFile) -> int:
    return int(entry(file, "attention.head_count_kv", entry(file, "attention.head_count")))


def _scaling(file: GgufFile) -> dict[str, Any]:
    """Returns the scaling of RoPE: none, linear or YaRN (Peng et al. 2023, arXiv:2309.00071)."""
    kind = file.metadata.get(f"{architecture_name(file)}.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    if kind not in {"linear", "yarn"}:
        raise unsupported(file, f"RoPE scaling of the type {kind}")
    scaling = {"rope_type": kind, "factor": float(entry(file, "rope.scaling.factor"))}
    if kind == "yarn":
        length = entry(file, "rope.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = length
    return scaling


def _rope_parameters(file: GgufFile, head_dim: int) -> dict[str, Any]:
    theta = {"rope_theta": float(entry(file, "rope.freq_base", 1e4))}
    stored = file.tensors.get(ROPE_FACTORS)
    if stored is None:
        return _scaling(file) | theta
    factors = stored.read()
    parameters = theta | {
        "rope_type": "llama3",
        "factor": round(factors.max().item(), 3),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    # The file has the factors alone, so those of Llama 3.1 are recognised by their values.
    config = AutoConfig.for_model("llama", head_dim=head_dim, rope_parameters=parameters)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    exponents = torch.arange(0, head_dim, 2) / head_dim
    if factors.shape != scaled.shape or not torch.allclose(
        theta["rope_theta"] ** -exponents / factors, scaled, rtol=1e-3
    ):
        raise unsupported(file, f"RoPE factors ({ROPE_FACTORS}) other than Llama 3.1's")
    return parameters
