"""Gain by each part of our engine: `python -m benchmarks.parts [PART ...] [--help]`.

The engine is measured with and without each part, and without HTTP.
"""

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch

from benchmarks.goals import compare, gaps_within
from benchmarks.prompts import Prompts
from benchmarks.report import create_parser, measure_all, medians, milliseconds, parse, table
from benchmarks.systems import ours_offline
from benchmarks.worker import Run
from benchmarks.workload import Job, Request, Start, summarize
from src.cli.measurement import quantile
from src.engine.backend import choose_backend
from src.engine.sampling import top_k_top_p
from src.engine.sampling.kernels import TorchSampling
from src.engine.sampling.sampler import Sampler, SamplingRow
from src.engine.sampling_params import SamplingParams

VOCAB_SIZE = 50257
LOGITS_STD = {"peaked": 8.0, "as the measured model": 4.15, "flat": 1.0}
"""Top-p 0.9 keeps one or two tokens, about two hundred, and most of the vocabulary."""


def batching(arguments: Namespace) -> str:
    """Measures 32 requests, one at a time in the engine and all in each step."""
    prompts = Prompts(arguments.model)
    num_requests = 8 if arguments.quick else 32
    jobs = [prompts.job(num_requests, 32) for _ in range(arguments.repeats)]
    rows = []
    for max_num_seqs in (1, 4, 32):
        with ours_offline(str(arguments.model), max_num_seqs=max_num_seqs) as run:
            run(prompts.job(4, 4))
            speeds = [summarize(run(job)).tokens_per_second for job in jobs]
        rows.append([max_num_seqs, f"{statistics.median(speeds):.1f}"])
    return table(["MAX_BATCH_SIZE", "tok/s"], rows)


def chunks(arguments: Namespace) -> str:
    """Measures the waits of eight streams while a prompt of 900 tokens is computed."""
    rows = []
    for budget in (64, 128, 256, 4096):
        prompts = Prompts(arguments.model)
        with ours_offline(str(arguments.model), max_num_batched_tokens=budget) as run:
            run(prompts.job(8, 4))
            samples = [waits(run, prompts) for _ in range(arguments.repeats)]
        rows.append([budget, *map(milliseconds, medians(samples))])
    header = ["MAX_NUM_BATCHED_TOKENS", "p50", "p95", "longest", "TTFT of the long prompt"]
    return table(header, rows)


def waits(run: Run, prompts: Prompts) -> tuple[float, ...]:
    """Returns the running streams' inter-token times, and the long prompt's time to first token."""
    running = [Request(prompts.take(16), 64) for _ in range(8)]
    long = Request(prompts.take(900), 4, start=Start(0, 16))
    *streams, trace = run(Job([*running, long], 9))
    gaps = gaps_within(streams, trace.sent, trace.texts[0])
    return quantile(gaps, 0.5), quantile(gaps, 0.95), max(gaps), trace.time_to_first_token


def prefixes(arguments: Namespace) -> str:
    """Measures five requests in turn, with the same 500 tokens first and a question of 16."""
    prompts = Prompts(arguments.model)
    samples = []
    with ours_offline(str(arguments.model)) as run:
        run(prompts.job(4, 4))
        for _ in range(arguments.repeats):
            system = prompts.take(500)
            requests = [Request(f"{system}\n{prompts.take(16)}", 4) for _ in range(5)]
            times = [trace.time_to_first_token for trace in run(Job(requests, 1))]
            samples.append((times[0], statistics.median(times[1:])))
    first, later = medians(samples)
    row = [milliseconds(first), milliseconds(later), f"{first / later:.1f}"]
    return table(["TTFT of the first", "of a later one", "ratio"], [row])


def candidates(arguments: Namespace) -> str:
    """One call of the sampler for 32 rows, greedy and with top-p 0.9.

    Both by PyTorch and by our own kernels; then top-p by our own without rejection sampling, and by
    PyTorch with a sort of all tokens.
    """
    torch_sampler = Sampler(TorchSampling())
    native_sampler = choose_backend("auto", is_float32_on_cpu=True).sampler
    greedy, nucleus = SamplingParams(temperature=0), SamplingParams(temperature=1, top_p=0.9)
    rows = []
    for name, std in LOGITS_STD.items():
        logits = std * torch.randn(32, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
        times = [
            sampler_time(sampler, logits, params, arguments.repeats)
            for params in (greedy, nucleus)
            for sampler in (torch_sampler, native_sampler)
        ]
        with patch.object(top_k_top_p, "sample_by_rejection", top_k_top_p.sample_sorted):
            times.append(sampler_time(native_sampler, logits, nucleus, arguments.repeats))
        all_sorted = Sampler(TorchSampling(num_candidates=VOCAB_SIZE))
        times.append(sampler_time(all_sorted, logits, nucleus, arguments.repeats))
        rows.append([name, *map(milliseconds, times)])
    header = ["greedy", "ours", "top-p", "ours", "ours, no rejection", "all sorted"]
    return table(["logits", *header], rows)


def sampler_time(
    sampler: Sampler, logits: torch.Tensor, params: SamplingParams, repeats: int
) -> float:
    """Returns the median time of a call."""
    times = []
    for position in range(1, 5 * repeats + 1):
        rows = [SamplingRow(params, row, [0] * position, 1) for row in range(len(logits))]
        changed = logits.clone()  # the sampler works in place
        started = time.perf_counter()
        sampler.sample(changed, rows)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


TEXTS: dict[str, tuple[float, tuple[int, ...]]] = {
    "one token again and again": (0.0, (300,)),
    "three tokens at random": (2.0, (300, 400, 500)),
    "any tokens at random": (1.0, ()),
}
"""Temperature and generated tokens: drafts are right, often wrong, or there are none."""


def guesses(arguments: Namespace) -> str:
    """With and without draft tokens, alternating, on predictable and unpredictable texts."""
    prompts, model = Prompts(arguments.model), str(arguments.model)
    rows = []
    with ours_offline(model) as plain, ours_offline(model, num_speculative_tokens=15) as guessing:
        for name, (temperature, favoured) in TEXTS.items():
            for num_requests in (1, 2, 4, 8):
                pairs = []
                for repeat in range(arguments.repeats + 1):
                    job = prompts.job(num_requests, 8 if arguments.quick else 64, temperature)
                    job = replace(
                        job, requests=[replace(r, favoured=favoured) for r in job.requests]
                    )
                    order = -1 if repeat % 2 else 1  # alternate the order
                    runs = (plain, guessing)[::order]
                    pairs.append([summarize(run(job)).tokens_per_second for run in runs][::order])
                rows.append([name, num_requests, *compare(pairs[1:])])  # the first is a warm-up
    return table(["text", "at once", "without tok/s", "with tok/s", "ratio"], rows)


PARTS: dict[str, Callable[[Namespace], str]] = {
    "batching": batching,
    "chunks": chunks,
    "prefixes": prefixes,
    "candidates": candidates,
    "guesses": guesses,
}


def main() -> None:
    """Measures one part after the other; the exit status is 1 if one failed."""
    parser = create_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    arguments = parse(parser)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sys.exit(measure_all({name: PARTS[name] for name in arguments.parts or PARTS}, arguments))


if __name__ == "__main__":
    main()
