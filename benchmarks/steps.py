"""Time of a step and of its parts: `python -m benchmarks.steps [PART ...] [--help]`.

- layers: all 49 linear layers of gpt2-small's sizes, by kernels and number of rows
- attention: of decoding sequences, by kernels
- lengths: a step of eight sequences with few tokens, many, or some of each
- profile: torch's profiler over decoding steps, the costliest operations first

Runs the engine's core in a separate thread, as the service does, and no server.
"""

import random
import statistics
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import get_args

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.report import create_parser, measure_all, milliseconds, parse, table
from benchmarks.workload import BenchmarkError
from src.engine.attention.kv_cache import CacheLayout, KVCache, LayerShape
from src.engine.attention.packed_attention import PackedAttention
from src.engine.attention.packed_step import Segment, Step
from src.engine.backend import TORCH_BACKEND, Backend, create_native_backend
from src.engine.config import EngineConfig, Kernels, Quantization
from src.engine.core import EngineCore
from src.engine.factory import BLOCK_SIZE, create_core
from src.engine.kernels.loading import load_kernels
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams

SIZES = [(768, 2304), (768, 768), (768, 3072), (3072, 768)] * 12 + [(768, 50257)]
NUM_ROWS = (1, 2, 4, 8, 16, 32, 128)
NUM_COPIES = 12
"""Caches that take turns, as the layers of a model do; a single one would stay in cache."""

LENGTHS = ((1, 100), (8, 100), (32, 75), (8, 900))
NUM_HEADS, HEAD_DIM = 12, 64

PROMPT_LENGTH = 32
WARM_UP, MEASURED = 12, 20  # steps
MIXES = {
    "16": [16] * 8,
    "16 to 960": [16, 32, 64, 120, 240, 480, 720, 960],
    "329, as many in all": [329] * 8,
    "960": [960] * 8,
}
"""Tokens of each sequence when the steps are measured."""

KERNEL_NAMES = (
    "linear",
    "decode_attention",
    "prefill_attention",
    "project_layer",
    "complete_layer",
    "decode_layer",
    "argmax",
    "top_k_probs",
)
MAX_OPERATIONS = 10


@torch.inference_mode()
def layers(arguments: Namespace) -> str:
    """Milliseconds of all, medians: torch.nn.Linear, PyTorch's faster kernels, and our own."""
    native = native_backend()
    kinds: list[tuple[Backend | None, Quantization]] = [
        (None, "none"),
        (TORCH_BACKEND, "none"),
        (native, "none"),
        (TORCH_BACKEND, "int8"),
        (native, "int8"),
    ]
    rows: list[list[object]] = [[number] for number in NUM_ROWS]
    for backend, quantization in kinds:
        linears = [create_layer(*sizes, backend, quantization) for sizes in SIZES]
        for row in rows:
            inputs = {size: torch.randn(row[0], size) for size, _ in SIZES}
            calls = [[partial(run_layers, linears, inputs)]]
            row.append(milliseconds(*time_calls(calls, 4 * arguments.repeats)))
    return table(["rows", "plain", "float32", "ours", "int8", "ours"], rows)


def native_backend() -> Backend:
    """Loads our own kernels."""
    kernels = load_kernels()
    if kernels is None:
        raise BenchmarkError("our own kernels were not built here")
    return create_native_backend(kernels)


def create_layer(
    num_inputs: int, num_outputs: int, backend: Backend | None, quantization: Quantization
) -> torch.nn.Module:
    """Creates a layer with random weights; without a backend a torch.nn.Linear."""
    plain = torch.nn.Linear(num_inputs, num_outputs)
    if backend is None:
        return plain
    return backend.create_linear(plain.weight, plain.bias, quantization)


def run_layers(linears: list[torch.nn.Module], inputs: dict[int, torch.Tensor]) -> None:
    """Runs all layers, each with the input of its size."""
    for linear, (num_inputs, _) in zip(linears, SIZES, strict=True):
        linear(inputs[num_inputs])


@torch.inference_mode()
def attention(arguments: Namespace) -> str:
    """Milliseconds of 12 layers with 12 heads of 64, medians, by sequences and their tokens."""
    backends = (TORCH_BACKEND, native_backend())
    rows = []
    for num_sequences, num_tokens in LENGTHS:
        cpu = torch.device("cpu")
        shapes = {index: LayerShape(NUM_HEADS, HEAD_DIM, HEAD_DIM) for index in range(NUM_COPIES)}
        num_blocks, size = -(-num_tokens // BLOCK_SIZE["cpu"]), BLOCK_SIZE["cpu"]
        cache = KVCache(shapes, CacheLayout(num_sequences * num_blocks, size, torch.float32), cpu)
        tables = torch.randperm(num_sequences * num_blocks).view(num_sequences, -1).tolist()
        for tensor in (*cache.keys.values(), *cache.values.values()):
            tensor.fill_(1)  # else all pages map to the system's single page of zeros
        calls = []
        for backend in backends:
            attend = PackedAttention(cache, backend.attention)
            segments = [Segment(array("i", row), num_tokens - 1, num_tokens) for row in tables]
            attend.step = Step.create(segments, size, cpu)
            heads = torch.randn(3, 1, NUM_HEADS, num_sequences, HEAD_DIM)
            calls.append(
                [partial(attend, Namespace(layer_idx=index), *heads, None) for index in shapes]
            )
        times = [NUM_COPIES * time for time in time_calls(calls, arguments.repeats)]
        rows.append([num_sequences, num_tokens, *map(milliseconds, times)])
    return table(["sequences", "tokens", "PyTorch's", "ours"], rows)


def time_calls(kinds: list[list[Callable[[], object]]], repeats: int) -> list[float]:
    """Returns the median time of each kind's calls; calls and kinds alternate."""
    times: list[list[float]] = [[] for _ in kinds]
    for repeat in range(repeats + 1):
        for calls, samples in zip(kinds, times, strict=True):
            for call in calls:
                started = time.perf_counter()
                call()
                if repeat:  # the first round is a warm-up
                    samples.append(time.perf_counter() - started)
    return [statistics.median(samples) for samples in times]


def lengths(arguments: Namespace) -> str:
    """Measures milliseconds of a step, medians."""
    core, vocab_size = create(arguments)
    rows = []
    for name, mix in MIXES.items():
        start_decoding(core, vocab_size, [length - WARM_UP for length in mix])
        times = run_steps(core, MEASURED)
        rows.append([name, sum(mix), milliseconds(statistics.median(times))])
        end_all(core)
    return table(["tokens each", "in all", "ms"], rows)


def profile_steps(arguments: Namespace) -> str:
    """The share of each operation in the time of a step; Python is the time in no operation."""
    core, vocab_size = create(arguments)
    start_decoding(core, vocab_size, [PROMPT_LENGTH] * arguments.sequences)
    seconds = statistics.median(run_steps(core, MEASURED))
    with named_kernels(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        total = sum(run_steps(core, MEASURED))
    operations = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    in_operations = sum(event.self_cpu_time_total for event in operations) / 1e6
    rows = [
        [event.key, event.count // MEASURED, percent(event.self_cpu_time_total / 1e6 / total)]
        for event in operations[:MAX_OPERATIONS]
    ]
    rows.append(["Python", "", percent(1 - in_operations / total)])
    shares = table(["operation", "calls a step", "share"], rows)
    return f"A step of {arguments.sequences}: {milliseconds(seconds)} ms.\n\n{shares}"


def create(arguments: Namespace) -> tuple[EngineCore, int]:
    """Returns a core and its model's vocabulary size."""
    config = EngineConfig(
        str(arguments.model),
        quantization=arguments.quantization,
        kernels=arguments.kernels,
        num_speculative_tokens=0,
    )
    loaded = load_model(config)
    return create_core(loaded, config), loaded.vocab_size


def start_decoding(core: EngineCore, vocab_size: int, prompt_lengths: list[int]) -> None:
    """Adds sequences, and steps until each has generated WARM_UP tokens."""
    numbers = random.Random(0)  # noqa: S311 - the same prompts each time
    params = SamplingParams(max_tokens=WARM_UP + 3 * MEASURED, temperature=0, ignore_eos=True)
    for number, length in enumerate(prompt_lengths):
        token_ids = [numbers.randrange(vocab_size) for _ in range(max(1, length))]
        core.add(Request(str(number), token_ids, params))
    num_generated = dict.fromkeys(map(str, range(len(prompt_lengths))), 0)
    while min(num_generated.values()) < WARM_UP:
        for output in core.step().outputs:
            num_generated[output.request_id] += len(output.new_token_ids)


def end_all(core: EngineCore) -> None:
    """Aborts all sequences."""
    for number in range(max(map(len, MIXES.values()))):
        core.abort(str(number))


def percent(share: float) -> str:
    """Formats a share with one decimal."""
    return f"{100 * share:.1f} %"


@contextmanager
def named_kernels() -> Iterator[None]:
    """Shows our own kernels to the profiler, which knows only PyTorch's."""
    kernels = load_kernels()
    if kernels is None:
        yield
        return
    for name in KERNEL_NAMES:
        setattr(kernels, name, record_function(name)(getattr(kernels, name)))
    try:
        yield
    finally:
        for name in KERNEL_NAMES:
            delattr(kernels, name)


def run_steps(core: EngineCore, count: int) -> list[float]:
    """Returns the seconds of each step."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - started)
    return times


PARTS: dict[str, Callable[[Namespace], str]] = {
    "layers": layers,
    "attention": attention,
    "lengths": lengths,
    "profile": profile_steps,
}


def main() -> None:
    """Prints one part after the other; the exit status is 1 if one failed."""
    parser = create_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--sequences", type=int, default=16, help="for profile")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none")
    parser.add_argument("--kernels", choices=get_args(Kernels), default="auto")
    arguments = parse(parser)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = {name: PARTS[name] for name in arguments.parts or PARTS}
    with ThreadPoolExecutor(1) as engine_thread:
        sys.exit(engine_thread.submit(measure_all, chosen, arguments).result())


if __name__ == "__main__":
    main()
