"""Names and layouts of a checkpoint's tensors in llama.cpp's files, for gpt2 and llama."""

from collections.abc import Iterator
from typing import Any

import numpy as np

FILE_NAME = "model.gguf"
Tensors = Iterator[tuple[str, np.ndarray]]
"""llama.cpp's names and their tensors."""

GPT2_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
LLAMA_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gpt2_tensors(config: dict[str, Any], weights: dict[str, np.ndarray]) -> Tensors:
    """Transposes a Conv1D's weight: llama.cpp reads (num_out, num_in)."""
    yield "token_embd.weight", weights["transformer.wte.weight"]
    yield "position_embd.weight", weights["transformer.wpe.weight"]
    for kind in ("weight", "bias"):
        yield f"output_norm.{kind}", weights[f"transformer.ln_f.{kind}"]
        for number in range(config["n_layer"]):
            for theirs, ours in GPT2_NAMES.items():
                tensor = weights[f"transformer.h.{number}.{theirs}.{kind}"]
                turned = np.ascontiguousarray(tensor.T)
                yield f"blk.{number}.{ours}.{kind}", turned


def llama_tensors(config: dict[str, Any], weights: dict[str, np.ndarray]) -> Tensors:
    """Reorders queries and keys for RoPE: llama.cpp rotates neighbours, HuggingFace halves."""
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    num_heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    for number in range(config["num_hidden_layers"]):
        for theirs, ours in LLAMA_NAMES.items():
            tensor = weights[f"model.layers.{number}.{theirs}.weight"]
            if ours in num_heads:
                tensor = interleave_halves(tensor, num_heads[ours])
            yield f"blk.{number}.{ours}.weight", tensor


def interleave_halves(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Interleaves the halves of each head: row i of the first comes before row i of the second."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


TENSORS = {"gpt2": gpt2_tensors, "llama": llama_tensors}
