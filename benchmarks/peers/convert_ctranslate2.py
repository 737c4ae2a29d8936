"""Writes a model in CTranslate2's format, with its own specification of a decoder.

Runs in CTranslate2's environment: `python -m benchmarks.peers.convert_ctranslate2 SOURCE TARGET
--precision P`, where SOURCE is a HuggingFace folder of gpt2 or llama.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec
from safetensors.numpy import load_file

QUANTIZATION = {"float32": None, "8-bit": "int8"}


class Weights:
    """The tensors of a checkpoint, put into specifications by name."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors

    def embed(self, spec: Any, name: str) -> None:
        spec.weight = self._tensors[name]

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma = self._tensors[f"{name}.weight"]
        if (bias := self._tensors.get(f"{name}.bias")) is not None:
            spec.beta = bias

    def linear(self, spec: Any, name: str, transposed: bool = False) -> None:
        """Fills a linear layer; gpt2's Conv1D has its weight transposed."""
        weight = self._tensors[f"{name}.weight"]
        spec.weight = weight.T.copy() if transposed else weight
        if (bias := self._tensors.get(f"{name}.bias")) is not None:
            spec.bias = bias

    def fused(self, spec: Any, names: list[str]) -> None:
        parts = [common_spec.LinearSpec() for _ in names]
        for part, name in zip(parts, names, strict=True):
            self.linear(part, name)
        utils.fuse_linear(spec, parts)


def specify_gpt2(config: dict[str, Any], weights: Weights) -> Any:
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["n_layer"], config["n_head"], activation=common_spec.Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    weights.embed(decoder.embeddings, "transformer.wte.weight")
    weights.embed(decoder.projection, "transformer.wte.weight")
    decoder.position_encodings.encodings = weights._tensors["transformer.wpe.weight"]
    weights.norm(decoder.layer_norm, "transformer.ln_f")
    for number, layer in enumerate(decoder.layer):
        name = f"transformer.h.{number}"
        weights.norm(layer.self_attention.layer_norm, f"{name}.ln_1")
        weights.linear(layer.self_attention.linear[0], f"{name}.attn.c_attn", transposed=True)
        weights.linear(layer.self_attention.linear[1], f"{name}.attn.c_proj", transposed=True)
        weights.norm(layer.ffn.layer_norm, f"{name}.ln_2")
        weights.linear(layer.ffn.linear_0, f"{name}.mlp.c_fc", transposed=True)
        weights.linear(layer.ffn.linear_1, f"{name}.mlp.c_proj", transposed=True)
    spec.config.layer_norm_epsilon = config["layer_norm_epsilon"]
    return spec


def specify_llama(config: dict[str, Any], weights: Weights) -> Any:
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,  # all of a head
        rotary_interleave=False,
        rotary_base=config["rope_parameters"]["rope_theta"],
        num_heads_kv=config["num_key_value_heads"],
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    weights.embed(decoder.embeddings, "model.embed_tokens.weight")
    weights.embed(decoder.projection, "model.embed_tokens.weight")
    weights.norm(decoder.layer_norm, "model.norm")
    for number, layer in enumerate(decoder.layer):
        name = f"model.layers.{number}"
        projections = [f"{name}.self_attn.{letter}_proj" for letter in "qkv"]
        weights.norm(layer.self_attention.layer_norm, f"{name}.input_layernorm")
        weights.fused(layer.self_attention.linear[0], projections)
        weights.linear(layer.self_attention.linear[1], f"{name}.self_attn.o_proj")
        weights.norm(layer.ffn.layer_norm, f"{name}.post_attention_layernorm")
        weights.linear(layer.ffn.linear_0, f"{name}.mlp.gate_proj")
        weights.linear(layer.ffn.linear_0_noact, f"{name}.mlp.up_proj")
        weights.linear(layer.ffn.linear_1, f"{name}.mlp.down_proj")
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    return spec


SPECIFY = {"gpt2": specify_gpt2, "llama": specify_llama}


def convert(source: Path, target: Path, precision: str) -> None:
    """Writes the model, its vocabulary and its tokenizer into `target`."""
    config = json.loads((source / "config.json").read_text())
    weights = Weights(load_file(source / "model.safetensors"))
    spec = SPECIFY[config["model_type"]](config, weights)
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    spec.register_vocabulary(sorted(vocabulary, key=vocabulary.__getitem__))
    end = min(vocabulary, key=vocabulary.__getitem__)  # <|endoftext|>, the only special token
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = end
    spec.validate()
    spec.optimize(quantization=QUANTIZATION[precision])
    target.mkdir(exist_ok=True)
    spec.save(str(target))
    shutil.copy(source / "tokenizer.json", target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--precision", choices=QUANTIZATION, required=True)
    convert(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
