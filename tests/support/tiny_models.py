"""Tiny models with random weights, made on the spot: real files for the real loading code."""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 320
CONTEXT = 128
END = "<|endoftext|>"
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED_HEADS = SHAPE | {"num_key_value_heads": 2, "intermediate_size": 64}

WIDE_HEADS = {"head_dim": 16}
"""The attention of such heads is computed by our own kernels, where they were built."""

SLIDING = GROUPED_HEADS | {"head_dim": 8, "sliding_window": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES = {
    "gpt2": SHAPE,
    "gpt_neo": SHAPE | {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "llama": GROUPED_HEADS,
    "qwen2": GROUPED_HEADS,
    "mistral": SLIDING | WIDE_HEADS,
    "gemma2": SLIDING,
}
"""Few that differ in their files and in how they are loaded."""

BATCHED = {
    **ARCHITECTURES,
    "gptj": SHAPE | {"rotary_dim": 4},
    "codegen": SHAPE | {"rotary_dim": 4},
    "phi": SHAPE | {"intermediate_size": 64},
    "qwen3": GROUPED_HEADS | WIDE_HEADS,
    "olmo2": GROUPED_HEADS,
    "gemma3_text": SLIDING | WIDE_HEADS | {"layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": GROUPED_HEADS
    | {"sliding_window": 16, "use_sliding_window": True, "no_rope_layer_interval": 2},
    "mixtral": GROUPED_HEADS | EXPERTS,
    "qwen3_moe": GROUPED_HEADS
    | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_oss": SLIDING | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}
"""They differ in what they ask of attention, and the continuous engine runs them all."""

LONG_CONTEXT = 640
ORIGINAL_CONTEXT = 64
LATENT_HEADS = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8}
LATENT_HEADS |= {"qk_nope_head_dim": 8, "v_head_dim": 8}
FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PER_LAYER_INPUTS = {"vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 8}
ROUTED_EXPERTS = FEW_EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 3.0, 6.0, 9.0],
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}

FAMILIES = {
    name: config | {"max_position_embeddings": LONG_CONTEXT}
    for name, config in {
        **BATCHED,
        "apertus": GROUPED_HEADS,
        "arcee": GROUPED_HEADS,
        "cohere": GROUPED_HEADS,
        "cohere2": SLIDING | {"layer_types": ["sliding_attention", "full_attention"]},
        "deepseek_v3": SHAPE
        | LATENT_HEADS
        | ROUTED_EXPERTS
        | {"num_key_value_heads": 4, "intermediate_size": 64, "first_k_dense_replace": 1},
        "ernie4_5": GROUPED_HEADS,
        "exaone4": SLIDING | {"sliding_window_pattern": 2},
        "gemma": GROUPED_HEADS | {"head_dim": 8},
        "gemma4_text": SLIDING
        | PER_LAYER_INPUTS
        | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "global_head_dim": 16}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2},
        "gemma3n_text": SLIDING
        | PER_LAYER_INPUTS
        | {"num_hidden_layers": 4, "num_kv_shared_layers": 2}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"laurel_rank": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.5] * 4},
        "glm": GROUPED_HEADS | {"head_dim": 8},
        "glm4": GROUPED_HEADS | {"head_dim": 8},
        "glm4_moe": GROUPED_HEADS | ROUTED_EXPERTS | {"first_k_dense_replace": 1},
        "gpt_bigcode": SHAPE,
        "gpt_neox": SHAPE | {"intermediate_size": 64},
        "granite": GROUPED_HEADS,
        "granitemoe": GROUPED_HEADS | EXPERTS,
        "helium": GROUPED_HEADS | {"head_dim": 8},
        "hunyuan_v1_dense": GROUPED_HEADS | {"head_dim": 8},
        "llama dynamic": GROUPED_HEADS | {"rope_parameters": DYNAMIC},
        "minimax_m2": GROUPED_HEADS | EXPERTS | {"head_dim": 8, "rotary_dim": 8},
        "ministral3": GROUPED_HEADS | {"head_dim": 8},
        "nanochat": GROUPED_HEADS,
        "nemotron": GROUPED_HEADS,
        "olmo": GROUPED_HEADS,
        "olmo3": SLIDING | {"layer_types": ["sliding_attention", "full_attention"]},
        "olmoe": GROUPED_HEADS | FEW_EXPERTS,
        "opt": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "phi3": GROUPED_HEADS | {"sliding_window": 16},
        "phi3 longrope": GROUPED_HEADS
        | {"rope_parameters": LONGROPE, "original_max_position_embeddings": ORIGINAL_CONTEXT},
        "phimoe longrope": GROUPED_HEADS
        | EXPERTS
        | {"rope_parameters": LONGROPE | {"short_mscale": 1.2, "long_mscale": 1.5}},
        "qwen2_moe": GROUPED_HEADS | FEW_EXPERTS | {"shared_expert_intermediate_size": 32},
        "seed_oss": GROUPED_HEADS | {"head_dim": 8},
        "stablelm": GROUPED_HEADS,
        "starcoder2": SLIDING,
    }.items()
}
"""Most families that the continuous engine runs, in a context that passes windows and RoPE's own.

The first word of a name is the architecture.
"""

UNUSUAL = {
    "bloom": SHAPE,  # its attention cannot be replaced
    "lfm2": GROUPED_HEADS
    | {"layer_types": ["conv", "full_attention"]},  # tokens also meet elsewhere
    "doge": GROUPED_HEADS | {"keep_window_size": 16},  # its attention needs a mask of its own
    # What a token sees shows in the mask alone, and only in a prompt that is longer than this.
    "phimoe": GROUPED_HEADS | EXPERTS | {"sliding_window": 64},
    "llama4_text": GROUPED_HEADS
    | EXPERTS
    | {"head_dim": 8, "attention_chunk_size": 64, "layer_types": ["chunked_attention"] * 2}
    | {"no_rope_layers": [1, 1]},
}
"""Architectures that need the reference engine."""


HYBRID = GROUPED_HEADS | {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTIONAL = GROUPED_HEADS | {"layer_types": ["conv", "full_attention"]}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR_HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
DELTA = HYBRID | LINEAR_HEADS | {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
SHARED_EXPERT = FEW_EXPERTS | {"head_dim": 8, "shared_expert_intermediate_size": 32}
SINGLE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2}

STATEFUL = {
    "bailing_hybrid": (GROUPED_HEADS | FEW_EXPERTS | {"head_dim": 8}, "linear_attention"),
    "bamba": (
        GROUPED_HEADS | MAMBA | {"mamba_expand": 2, "attn_layer_indices": [1]},
        "linear_attention",
    ),
    "falcon_h1": (GROUPED_HEADS | MAMBA | {"mamba_d_ssm": 64}, "hybrid"),
    "falcon_mamba": (SINGLE, "linear_attention"),
    "granitemoehybrid": (
        HYBRID | EXPERTS | MAMBA | {"mamba_expand": 2, "shared_intermediate_size": 32},
        "linear_attention",
    ),
    "jamba": (
        GROUPED_HEADS | FEW_EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1},
        "mamba",
    ),
    "lfm2": (CONVOLUTIONAL, "conv"),
    "lfm2_moe": (CONVOLUTIONAL | FEW_EXPERTS | {"num_dense_layers": 1}, "conv"),
    "mamba": (SINGLE, "linear_attention"),
    "mamba2": (
        SINGLE | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
        "linear_attention",
    ),
    "minimax": (HYBRID | EXPERTS | {"head_dim": 8}, "linear_attention"),
    "nemotron_h": (
        GROUPED_HEADS
        | {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8}
        | {"layers_block_type": ["mamba", "attention"]},
        "linear_attention",
    ),
    "olmo_hybrid": (HYBRID | LINEAR_HEADS, "linear_attention"),
    "qwen3_5_moe_text": (DELTA | SHARED_EXPERT, "linear_attention"),
    "qwen3_5_text": (DELTA | {"head_dim": 8}, "linear_attention"),
    "qwen3_next": (DELTA | SHARED_EXPERT, "linear_attention"),
    "recurrent_gemma": (
        GROUPED_HEADS | {"lru_width": 32, "num_hidden_layers": 3},
        "linear_attention",
    ),
    "rwkv": (SINGLE | {"attention_hidden_size": 32}, "recurrence"),
    "xlstm": (SINGLE | {"num_heads": 4}, "recurrence"),
    "zamba2": (
        GROUPED_HEADS
        | {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]}
        | {"num_key_value_heads": 4, "mamba_d_state": 8, "mamba_headdim": 16}
        | {"n_mamba_heads": 4, "mamba_ngroups": 1, "num_mem_blocks": 1},
        "hybrid",
    ),
}
"""Architectures with layers that keep a state, and the kind of these layers."""


def create_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows a few words; any UTF-8 text makes the round trip.

    Args:
        special: further special tokens, behind all others.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END, "<|user|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the hat was there"] * 8, trainer)
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, extra_special_tokens=["<|user|>", *special]
    )


def create_byte_fallback_tokenizer() -> Tokenizer:
    """Creates a tokenizer like SentencePiece's with byte fallback for unknown characters."""
    names = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [SPACE, *'abcdefghijklmnopqrstuvwxyz{}[]:,."', "th", SPACE + "t", SPACE + "th", '":']
    model = BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=[("t", "h"), (SPACE, "t"), (SPACE + "t", "h"), ('"', ":")],
        byte_fallback=True,
        fuse_unk=True,
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    return tokenizer


def create_model_folder(folder: Path, architecture: str = "gpt2", seed: int = 0) -> Path:
    """Writes a model of this architecture with its tokenizer, as `save_pretrained` does."""
    return write_model(
        folder, architecture, (ARCHITECTURES | BATCHED | UNUSUAL)[architecture], seed
    )


def write_model(
    folder: Path, architecture: str, shape: Mapping[str, object], seed: int = 0
) -> Path:
    """Writes a model of this shape likewise."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # larger than at a training's start: no two logits tie
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    create_tokenizer().save_pretrained(folder)
    return folder
