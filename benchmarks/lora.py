"""Measures LoRA adapters in a batch: `python -m benchmarks.lora`.

16 sequences decode together; 0, 1, 4 or 16 of them, each with an adapter of its own, or all 16 with
one. The adapters have random weights of one rank in all linear layers of the decoder.
"""

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.report import create_parser, measure_all, parse, table
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.lora.adapter import LoraAdapter
from src.engine.lora.checkpoint import load_adapter
from src.engine.lora.state import LoraState
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams

NUM_SEQUENCES = 16
PROMPT_TOKENS = 32
MIXES = {
    "no adapter": 0,
    "1 of 16 rows": 1,
    "4 of 16 rows, 4 adapters": 4,
    "16 of 16 rows, 16 adapters": 16,
    "16 of 16 rows, 1 adapter": -1,
}


def write_adapter(folder: Path, state: LoraState, rank: int, seed: int) -> None:
    """Writes PEFT's files of an adapter with small random weights."""
    torch.manual_seed(seed)
    tensors = {}
    for name, (num_outputs, num_inputs) in state.shapes.items():
        prefix = f"base_model.model.{name}.lora_"
        tensors[f"{prefix}A.weight"] = torch.randn(rank, num_inputs) / num_inputs**0.5
        tensors[f"{prefix}B.weight"] = torch.randn(num_outputs, rank) * 0.01
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def run(core: EngineCore, adapters: list[LoraAdapter | None], arguments: Namespace) -> float:
    """Returns tokens per second of sequences, each with its adapter."""
    params = SamplingParams(max_tokens=arguments.max_tokens, temperature=0, ignore_eos=True)
    for number, adapter in enumerate(adapters):
        prompt = [100 + (7 * number + index) % 500 for index in range(PROMPT_TOKENS)]
        core.add(Request(f"{number}", prompt, params, adapter=adapter, tenant=str(number)))
    started, num_tokens = time.perf_counter(), 0
    while core.has_work:
        num_tokens += sum(len(output.new_token_ids) for output in core.step().outputs)
    return num_tokens / (time.perf_counter() - started)


def speeds(arguments: Namespace) -> str:
    """Tokens per second by the rows with an adapter; medians over rounds that take turns, and the
    median of the ratios to no adapter.
    """
    config = EngineConfig(
        str(arguments.model), quantization=arguments.quantization, num_speculative_tokens=0
    )
    state = LoraState()
    core = create_core(load_model(config), config, state)
    with tempfile.TemporaryDirectory() as parent:
        adapters: list[LoraAdapter] = []
        for seed in range(NUM_SEQUENCES):
            folder = Path(parent) / str(seed)
            write_adapter(folder, state, arguments.rank, seed)
            adapters.append(load_adapter(str(seed), folder, arguments.rank, state))
    found: dict[str, list[float]] = {name: [] for name in MIXES}
    for number in range(arguments.rounds + 1):
        for name, count in MIXES.items():
            own = [adapters[0]] * NUM_SEQUENCES if count < 0 else adapters[:count]
            mix = [*own, *[None] * (NUM_SEQUENCES - len(own))]
            speed = run(core, mix, arguments)
            if number:  # the first round warms up
                found[name].append(speed)
    base = found["no adapter"]
    rows = []
    for name, values in found.items():
        ratios = [value / plain for value, plain in zip(values, base, strict=True)]
        rows.append([name, f"{statistics.median(values):.0f}", f"{statistics.median(ratios):.2f}"])
    return table(["rows with an adapter", "tokens/s", "ratio"], rows)


def main() -> None:
    """Runs the measurement; the exit status is 1 if it failed."""
    parser = create_parser(__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--quantization", default="none")
    arguments = parse(parser)
    if arguments.quick:
        arguments.rounds, arguments.max_tokens = 1, 8
    sys.exit(measure_all({"speeds": speeds}, arguments))


if __name__ == "__main__":
    main()
