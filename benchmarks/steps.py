"""Measures the parts of a step's time: `python -m benchmarks.steps [PART ...] [--help]`.

layers     all 49 linear layers of gpt2-small's sizes, by kernels and number of rows
attention  attention of decoding sequences, by kernels
lengths    a step of eight sequences: short, long, or mixed
profile    torch's profiler over decode steps, by cost

It runs the engine's core in a thread of its own, as the service does, and nothing beside it.
"""

import random
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import get_args

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.report import create_parser, measure_all, milliseconds, parse, table
from benchmarks.workload import BenchmarkError
from src.engine.config import EngineConfig, Kernels, Quantization
from src.engine.core import EngineCore
from src.engine.cpu_layers.replace import create_linear
from src.engine.factory import create_core
from src.engine.kernels.bindings import CpuKernels, find_library
from src.engine.kernels.prefetch import tune
from src.engine.model.attention import PackedAttention, Segment, Step
from src.engine.model.kv_cache import KVCache, LayerShape
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams

SIZES = [(768, 2304), (768, 768), (768, 3072), (3072, 768)] * 12 + [(768, 50257)]
NUM_ROWS = (1, 2, 4, 8, 16, 32, 128)
NUM_COPIES = 12
"""Number of caches that take turns, as the layers of a model do; a single one would stay in the
CPU's cache.
"""

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
"""Lengths of the sequences at the measured steps."""

OWN_KERNELS = (
    *("linear", "decode_attention", "project_layer", "complete_layer", "decode_layer"),
    *("largest", "most_likely"),
)
MOST_OPERATIONS = 10


@torch.inference_mode()
def layers(arguments: Namespace) -> str:
    """Measures milliseconds of all layers, medians: PyTorch's plain layers, its faster kernels, and
    ours.
    """
    library = find_library()
    if library is None:
        raise BenchmarkError("our own kernels were not built here")
    tune(library)
    rows: list[list[object]] = [[number] for number in NUM_ROWS]
    for quantization, whose in KINDS:
        kind = [create_layer(*sizes, quantization, library if whose else None) for sizes in SIZES]
        for row in rows:
            inputs = {size: torch.randn(row[0], size) for size, _ in SIZES}
            calls = [[partial(run_layers, kind, inputs)]]
            row.append(milliseconds(*time_calls(calls, 4 * arguments.repeats)))
    return table(["rows", "plain", "float32", "ours", "int8", "ours"], rows)


KINDS: list[tuple[Quantization | None, bool]] = [
    (None, False), ("none", False), ("none", True), ("int8", False), ("int8", True),
]  # fmt: skip
"""Quantization (None: as a model is loaded), and the use of our own kernels."""


def create_layer(
    num_in: int, num_out: int, quantization: Quantization | None, library: CpuKernels | None
) -> torch.nn.Module:
    """Creates a linear layer with random weights."""
    plain = torch.nn.Linear(num_in, num_out)
    if quantization is None:
        return plain
    return create_linear(plain.weight, plain.bias, quantization, library)


def run_layers(kind: list[torch.nn.Module], inputs: dict[int, torch.Tensor]) -> None:
    """Runs the layers in turn, each on an input of its size."""
    for layer, (num_in, _) in zip(kind, SIZES, strict=True):
        layer(inputs[num_in])


@torch.inference_mode()
def attention(arguments: Namespace) -> str:
    """Measures milliseconds of 12 layers with 12 heads of 64, medians, by number and length of
    sequences.
    """
    library = find_library()
    if library is None:
        raise BenchmarkError("our own kernels were not built here")
    tune(library)
    rows = []
    for num_sequences, num_tokens in LENGTHS:
        cpu = torch.device("cpu")
        shapes = {index: LayerShape(NUM_HEADS, HEAD_DIM, HEAD_DIM) for index in range(NUM_COPIES)}
        cache = KVCache(shapes, num_sequences, num_tokens, torch.float32, cpu)
        for tensor in (*cache.keys.values(), *cache.values.values()):
            tensor.fill_(1)  # else every page is the system's page of zeros
        calls = []
        for whose in (None, library):
            attend = PackedAttention(cache, whose)
            segments = [Segment(slot, num_tokens - 1, num_tokens) for slot in range(num_sequences)]
            slots = torch.arange(num_sequences)
            attend.step = Step(segments, [], slots, torch.full_like(slots, num_tokens - 1))
            inputs = torch.randn(3, 1, NUM_HEADS, num_sequences, HEAD_DIM)
            calls.append(
                [partial(attend, Namespace(layer_idx=index), *inputs, None) for index in shapes]
            )
        times = [NUM_COPIES * time for time in time_calls(calls, arguments.repeats)]
        rows.append([num_sequences, num_tokens, *map(milliseconds, times)])
    return table(["sequences", "tokens", "PyTorch's", "ours"], rows)


def time_calls(kinds: list[list[Callable[[], object]]], repeats: int) -> list[float]:
    """Returns the median time of each kind's calls; kinds take turns."""
    times: list[list[float]] = [[] for _ in kinds]
    for repeat in range(repeats + 1):
        for kind, seconds in zip(kinds, times, strict=True):
            for call in kind:
                started = time.perf_counter()
                call()
                if repeat:  # the first turn warms up
                    seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in times]


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
    """Measures the share of each operation in a step's time; the rest is Python."""
    core, vocab_size = create(arguments)
    start_decoding(core, vocab_size, [PROMPT_LENGTH] * arguments.sequences)
    seconds = statistics.median(run_steps(core, MEASURED))
    with named_kernels(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        total = sum(run_steps(core, MEASURED))
    operations = sorted(
        profiled.key_averages(), key=lambda operation: -operation.self_cpu_time_total
    )
    in_operations = sum(operation.self_cpu_time_total for operation in operations) / 1e6
    rows = [
        [
            operation.key,
            operation.count // MEASURED,
            percent(operation.self_cpu_time_total / 1e6 / total),
        ]
        for operation in operations[:MOST_OPERATIONS]
    ]
    rows.append(["Python", "", percent(1 - in_operations / total)])
    shares = table(["operation", "calls a step", "share"], rows)
    return f"A step of {arguments.sequences}: {milliseconds(seconds)} ms.\n\n{shares}"


def create(arguments: Namespace) -> tuple[EngineCore, int]:
    """The engine's core, and the vocabulary size of its model."""
    config = EngineConfig(
        str(arguments.model),
        quantization=arguments.quantization,
        kernels=arguments.kernels,
        num_speculative_tokens=0,
    )
    loaded = load_model(config)
    return create_core(loaded, config), loaded.vocab_size


def start_decoding(core: EngineCore, vocab_size: int, prompt_lengths: list[int]) -> None:
    """Adds sequences, and steps until each has generated some tokens."""
    numbers = random.Random(0)  # noqa: S311 - the same prompts each time
    params = SamplingParams(max_tokens=WARM_UP + 3 * MEASURED, temperature=0, ignore_eos=True)
    for number, length in enumerate(prompt_lengths):
        token_ids = [numbers.randrange(vocab_size) for _ in range(max(1, length))]
        core.add(Request(str(number), token_ids, params))
    num_made = dict.fromkeys(map(str, range(len(prompt_lengths))), 0)
    while min(num_made.values()) < WARM_UP:
        for output in core.step().outputs:
            num_made[output.request_id] += len(output.new_token_ids)


def end_all(core: EngineCore) -> None:
    """Ends all sequences."""
    for number in range(max(map(len, MIXES.values()))):
        core.abort(str(number))


def percent(share: float) -> str:
    """Formats a number with one decimal."""
    return f"{100 * share:.1f} %"


@contextmanager
def named_kernels() -> Iterator[None]:
    """Names our own kernels in the profile; the profiler sees PyTorch's alone."""
    library = find_library()
    if library is None:
        yield
        return
    for name in OWN_KERNELS:
        setattr(library, name, record_function(name)(getattr(library, name)))
    try:
        yield
    finally:
        for name in OWN_KERNELS:
            delattr(library, name)


def run_steps(core: EngineCore, count: int) -> list[float]:
    """Returns seconds of each step."""
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
    """Prints the parts in turn; the exit status is 1 if a measurement failed."""
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
