"""Where a step's time goes: `python -m benchmarks.steps [PART ...] [--help]`.

layers   linear layers of gpt2-small's sizes, plain and packed, by the number of rows
profile  torch's profiler over steps in which so many sequences decode, the costliest first

It runs the engine's core in a thread of its own, as the service does, and nothing beside it.
"""

import random
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import create_parser, measure_all, milliseconds, parse, table
from src.engine.config import EngineConfig, Quantization
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.linears import PackedLinear
from src.engine.model_loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams

SIZES = {"768 → 2304": (768, 2304), "3072 → 768": (3072, 768), "768 → 50257": (768, 50257)}
NUM_ROWS = (1, 8, 16, 32, 128)
NUM_COPIES = 8
"""So many weights take turns, as the layers of a model do: one alone would stay in the cache."""

PROMPT_LENGTH = 32
WARM_UP, MEASURED = 12, 20  # steps
MOST_OPERATIONS = 10


@torch.inference_mode()
def layers(arguments: Namespace) -> str:
    """Milliseconds of a call, medians."""
    rows = []
    for name, (num_in, num_out) in SIZES.items():
        plain = [torch.nn.Linear(num_in, num_out) for _ in range(NUM_COPIES)]
        packed = [PackedLinear(one.weight, one.bias) for one in plain]
        for num_rows in NUM_ROWS:
            given = torch.randn(num_rows, num_in)
            times = [time_calls(kind, given, arguments.repeats) for kind in (plain, packed)]
            rows.append([name, num_rows, *map(milliseconds, times), f"{times[0] / times[1]:.1f}"])
    return table(["layer", "rows", "plain", "packed", "faster by"], rows)


def time_calls(
    kind: list[torch.nn.Linear] | list[PackedLinear], given: torch.Tensor, repeats: int
) -> float:
    """The median time of a call, the layers taking turns."""
    times = []
    for repeat in range(repeats + 1):
        for layer in kind:
            started = time.perf_counter()
            layer(given)
            if repeat:  # the first turn warms up
                times.append(time.perf_counter() - started)
    return statistics.median(times)


def profile_steps(arguments: Namespace) -> str:
    """The share of each operation in the time of a step."""
    config = EngineConfig(str(arguments.model), quantization=arguments.quantization)
    loaded = load_model(config)
    core = create_core(loaded, config)
    numbers = random.Random(0)  # noqa: S311 - the same prompts each time
    params = SamplingParams(max_tokens=WARM_UP + 3 * MEASURED, temperature=0, ignore_eos=True)
    for number in range(arguments.sequences):
        token_ids = [numbers.randrange(loaded.vocab_size) for _ in range(PROMPT_LENGTH)]
        core.add(Request(str(number), token_ids, params))
    run_steps(core, WARM_UP)
    seconds = statistics.median(run_steps(core, MEASURED))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run_steps(core, MEASURED)
    operations = sorted(profiled.key_averages(), key=lambda one: -one.self_cpu_time_total)
    total = sum(one.self_cpu_time_total for one in operations)
    rows = [
        [one.key, one.count // MEASURED, f"{100 * one.self_cpu_time_total / total:.1f} %"]
        for one in operations[:MOST_OPERATIONS]
    ]
    shares = table(["operation", "calls a step", "share"], rows)
    return f"A step of {arguments.sequences}: {milliseconds(seconds)} ms.\n\n{shares}"


def run_steps(core: EngineCore, count: int) -> list[float]:
    """Seconds of each step."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - started)
    return times


PARTS: dict[str, Callable[[Namespace], str]] = {"layers": layers, "profile": profile_steps}


def main() -> None:
    """Prints one part after the other; the exit status is 1 if one could not be measured."""
    parser = create_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--sequences", type=int, default=16, help="for profile")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none")
    arguments = parse(parser)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = {name: PARTS[name] for name in arguments.parts or PARTS}
    with ThreadPoolExecutor(1) as engine_thread:
        sys.exit(engine_thread.submit(measure_all, chosen, arguments).result())


if __name__ == "__main__":
    main()
