"""Compares systems under load: `make bench`, or `python -m benchmarks.serving [--help]`.

Each repeat starts every system in turn, alone on the machine, warms it up and runs the same jobs:
several requests at once, each with its own prompt and the same number of new tokens. Printed are
medians over the repeats. Time to first token runs from sending a request to its first text;
inter-token latency is the time between a stream's texts.

continuous          ENGINE=continuous, over HTTP
fp16, int8          the same with QUANTIZATION=fp16 or int8
continuous-offline  the exact engine without HTTP
reference           ENGINE=reference over HTTP: HuggingFace's `generate`, one request at a time
hf-static-offline   HuggingFace's `generate` on one left-padded batch, without HTTP
transformers-serve  `transformers serve --continuous-batching`, over HTTP
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.prompts import Prompts
from benchmarks.report import create_parser, milliseconds, note, parse, table
from benchmarks.systems import SYSTEMS
from benchmarks.workload import BenchmarkError, Figures, Job, median_figures, summarize

CONCURRENCY = [1, 4, 16, 32]
MAX_TOKENS = 64
BASE = "continuous"
SYSTEMS_BY_DEFAULT = [name for name in SYSTEMS if name != "reference-offline"]
HEADER = [
    "at once", "system", "tok/s", "TTFT p50", "TTFT p95", "inter-token p50", "inter-token p95",
    f"{BASE} is faster by",
]  # fmt: skip

Results = dict[tuple[int, str], list[Figures]]
"""Figures of each repeat, by number of concurrent requests and system."""


def main() -> None:
    """Prints the table; the exit status is 1 if a measurement failed."""
    parser = create_parser(__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS_BY_DEFAULT, metavar="NAME",
        help=f"some of: {', '.join(SYSTEMS)}",
    )  # fmt: skip
    arguments = parse(parser)
    if arguments.quick:
        arguments.concurrency, arguments.max_tokens = [1, 4], 8
    prompts = Prompts(arguments.model)
    sampling = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    results: Results = defaultdict(list)
    failures: list[str] = []
    for repeat in range(arguments.repeats):
        warm_up = prompts.job(max(arguments.concurrency), 4, **sampling)
        jobs = [prompts.job(n, arguments.max_tokens, **sampling) for n in arguments.concurrency]
        for name in arguments.systems:
            note(f"repeat {repeat + 1} of {arguments.repeats}: {name}")
            try:
                measure(name, arguments.model, warm_up, jobs, results)
            except BenchmarkError as error:
                failures.append(f"{name}: {error}")
                note(f"  FAILED: {error}")
    print(format_results(arguments.concurrency, arguments.systems, results))
    sys.exit("\n".join(failures) or None)


def measure(name: str, model: Path, warm_up: Job, jobs: list[Job], results: Results) -> None:
    """Starts a system, runs all jobs and adds their figures to the results."""
    with SYSTEMS[name](str(model)) as run:
        run(warm_up)
        for job in jobs:
            figures = summarize(run(job))
            results[job.concurrency, name].append(figures)
            note(f"  {job.concurrency:3} at once: {figures.tokens_per_second:.1f} tok/s")


def format_results(concurrency: list[int], systems: list[str], results: Results) -> str:
    """Creates a row for each number of requests and system, compared with our service."""
    rows = []
    for num_requests in concurrency:
        base = speed(results[num_requests, BASE])
        for name in systems:
            repeats = results[num_requests, name]
            rows.append([num_requests, name, *format_figures(repeats, base)])
    return table(HEADER, rows) + "\n\nTimes in milliseconds."


def format_figures(repeats: list[Figures], base: float | None) -> list[str]:
    """Formats the medians of one system, or their absence."""
    if not repeats:
        return ["failed"] + [""] * (len(HEADER) - 3)
    figures = median_figures(repeats)
    times = (figures.ttft_p50, figures.ttft_p95, figures.gap_p50, figures.gap_p95)
    factor = f"{base / figures.tokens_per_second:.2f}" if base else ""
    return [f"{figures.tokens_per_second:.1f}", *map(milliseconds, times), factor]


def speed(repeats: list[Figures]) -> float | None:
    """Returns the median of tokens per second, None if it was not measured."""
    return statistics.median(repeat.tokens_per_second for repeat in repeats) if repeats else None


if __name__ == "__main__":
    main()
