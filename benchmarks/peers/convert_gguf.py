"""Writes a model as GGUF, the format of llama.cpp.

Runs in llama.cpp's environment: `python -m benchmarks.peers.convert_gguf SOURCE TARGET --precision
P`, where SOURCE is a HuggingFace folder of gpt2 or llama. 8 bits are Q8_0 for the tensors that
llama.cpp's own quantizer chooses: matrices and the token embedding (the head too), no vectors and
no positions.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quants
from safetensors.numpy import load_file

from benchmarks.peers.gguf_layout import FILE_NAME, TENSORS

FILE_TYPES = {"float32": LlamaFileType.ALL_F32, "8-bit": LlamaFileType.MOSTLY_Q8_0}


def describe_gpt2(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def describe_llama(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


DESCRIBE = {"gpt2": describe_gpt2, "llama": describe_llama}


def describe_tokenizer(writer: GGUFWriter, source: Path) -> None:
    """Writes a byte-level BPE that splits as gpt2's; token 0 is EOS, and there is no BOS."""
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def convert(source: Path, target: Path, precision: str) -> None:
    """Writes `model.gguf` into `target`."""
    config = json.loads((source / "config.json").read_text())
    kind = config["model_type"]
    target.mkdir(exist_ok=True)
    writer = GGUFWriter(target / FILE_NAME, kind)
    writer.add_file_type(FILE_TYPES[precision])
    DESCRIBE[kind](writer, config)
    describe_tokenizer(writer, source)
    for name, tensor in TENSORS[kind](config, load_file(source / "model.safetensors")):
        if precision == "8-bit" and tensor.ndim == 2 and name != "position_embd.weight":
            q8_0 = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(tensor, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--precision", choices=FILE_TYPES, required=True)
    convert(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
