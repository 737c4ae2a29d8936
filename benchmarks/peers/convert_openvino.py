"""Writes a model in OpenVINO's format with optimum-intel: stateful, its tokenizer beside it.

Runs in an environment of its own, with torch: `python -m benchmarks.peers.convert_openvino SOURCE
TARGET --precision P`, where SOURCE is a HuggingFace folder. 8 bits are NNCF's INT8_ASYM weights,
the default of OpenVINO's tools.
"""

import argparse
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoTokenizer

QUANTIZATION = {"float32": None, "8-bit": OVWeightQuantizationConfig(bits=8)}


def convert(source: Path, target: Path, precision: str) -> None:
    """Writes the model, its tokenizer and its detokenizer into `target`."""
    model = OVModelForCausalLM.from_pretrained(
        source,
        export=True,
        compile=False,
        load_in_8bit=False,
        quantization_config=QUANTIZATION[precision],
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(target)
    both = convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    for name, part in zip(("tokenizer", "detokenizer"), both, strict=True):
        openvino.save_model(part, target / f"openvino_{name}.xml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--precision", choices=QUANTIZATION, required=True)
    convert(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
