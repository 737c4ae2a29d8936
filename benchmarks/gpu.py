"""Tests and measures the engine on a GPU: `make gpu-check`, in ten minutes at most.

Runs the tests marked `gpu`, and then an engine on random weights in bfloat16, which are created on
the GPU. It prints a table with one column for `KERNELS=auto`, which attends by FlashAttention over
the blocks of the KV cache, and one for `KERNELS=pytorch`, which gathers the blocks first. Without
a GPU it says so, and the exit status is 1.
"""

import argparse
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from benchmarks.report import milliseconds, note, table
from benchmarks.steps import run_steps, start_decoding
from src.engine.config import EngineConfig, Kernels
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.model.loader import LoadedModel
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams

ROOT = Path(__file__).parent.parent
CONTEXT = 16_384
VOCAB_SIZE = 128_256
GROUPED_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, PreTrainedConfig] = {
    # Llama-3.2-1B and Llama-3.1-8B, with a shorter context.
    "1b": LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **GROUPED_HEADS,
    ),
    "8b": LlamaConfig(
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CONTEXT,
        **GROUPED_HEADS,
    ),
}
LARGE_GPU = 40 * 2**30
"""Bytes of memory from which on the default is the larger shape; its weights take 15 GiB."""

KERNELS: tuple[Kernels, ...] = ("auto", "pytorch")
NUM_SEQUENCES = (1, 8, 32)
PROMPT_LENGTH, MEASURED_STEPS = 512, 40
LONG_PROMPT, REPEATS = 8192, 3
KV_CACHE_GB = 4.0
TESTS_SECONDS = 300


def create_loaded(shape: PreTrainedConfig, device: str) -> LoadedModel:
    """Creates a model with random weights on a device; its tokenizer knows no tokens."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    return LoadedModel(
        model=model.eval(),
        tokenizer=Tokenizer(BPE()),
        eos_token_ids=[],
        max_model_len=shape.max_position_embeddings,
        max_prompt_bytes=None,
        vocab_size=shape.vocab_size,
        embedding_size=shape.hidden_size,
    )


def measure(loaded: LoadedModel) -> str:
    """Returns a table: tokens per second by sequences at once, and time to first token."""
    names = [f"tokens/s, {number} at once" for number in NUM_SEQUENCES]
    names.append(f"ms to the first token of {LONG_PROMPT}")
    columns = []
    for kernels in KERNELS:
        note(f"KERNELS={kernels} ...")
        loaded.model.set_attn_implementation("sdpa")  # not that of an earlier engine
        config = EngineConfig(
            "random", kernels=kernels, kv_cache_gb=KV_CACHE_GB, num_speculative_tokens=0
        )
        core = create_core(loaded, config)
        column = [f"{decode_rate(core, loaded.vocab_size, number):.0f}" for number in NUM_SEQUENCES]
        columns.append([*column, milliseconds(time_to_first_token(core, loaded.vocab_size))])
        core._runner.close()  # two caches might not fit
    rows = zip(names, *columns, strict=True)
    return table(["", *(f"KERNELS={kernels}" for kernels in KERNELS)], rows)


def decode_rate(core: EngineCore, vocab_size: int, num_sequences: int) -> float:
    """Returns the generated tokens of all sequences together per second."""
    start_decoding(core, vocab_size, [PROMPT_LENGTH] * num_sequences)
    seconds = statistics.median(run_steps(core, MEASURED_STEPS))
    for number in range(num_sequences):
        core.abort(str(number))
    return num_sequences / seconds


def time_to_first_token(core: EngineCore, vocab_size: int) -> float:
    """Returns the seconds that a long prompt takes alone, median; the first one is a warm-up.

    NaN if a prompt fails, as when memory is too small for its attention.
    """
    numbers = random.Random(1)  # noqa: S311 - the same prompts each time
    times = []
    for number in range(1 + REPEATS):
        prompt = [numbers.randrange(vocab_size) for _ in range(LONG_PROMPT)]  # in no prefix cache
        core.add(Request(f"long {number}", prompt, SamplingParams(max_tokens=1, ignore_eos=True)))
        started, num_generated = time.perf_counter(), 0
        while core.has_work:
            num_generated += sum(len(output.new_token_ids) for output in core.step().outputs)
        times.append(time.perf_counter() - started if num_generated else math.nan)
    return statistics.median(times[1:])


def run_tests() -> int:
    """Runs the tests marked `gpu`; returns their exit status."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests/engine"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, check=False, cwd=ROOT, timeout=TESTS_SECONDS
        )
    except subprocess.TimeoutExpired:
        note(f"The tests did not end within {TESTS_SECONDS} s.")
        return 1
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Tests and measures; returns 1 without a GPU, or if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, help="default: by the GPU's memory")
    parser.add_argument("--no-tests", action="store_true", help="measures only")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        note("No GPU: torch sees no CUDA device here, so nothing was tested or measured.")
        return 1
    status = 0 if options.no_tests else run_tests()
    gpu = torch.cuda.get_device_properties(0)
    shape = options.shape or ("8b" if gpu.total_memory >= LARGE_GPU else "1b")
    text = measure(create_loaded(SHAPES[shape], "cuda"))
    print(f"{gpu.name}, torch {torch.__version__}, shape {shape}, bfloat16\n\n{text}")
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
