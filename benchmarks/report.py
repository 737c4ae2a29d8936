"""Common options and tables of the measuring commands."""

import argparse
import inspect
import signal
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.bench_model import ensure_model
from benchmarks.workload import BenchmarkError


def create_parser(description: str | None) -> argparse.ArgumentParser:
    """Creates a parser with the options of every measuring command."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a model; default: gpt2-small's shape, built once"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run whose numbers mean little"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> Namespace:
    """Parses the arguments, with the model's folder; SIGTERM ends the command orderly."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SIGTERM ends servers too
    arguments = parser.parse_args()
    arguments.model = (arguments.model or ensure_model()).resolve()
    if arguments.quick:
        arguments.repeats = 1
    return arguments


def note(text: str) -> None:
    """Prints progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Creates a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Formats seconds as milliseconds, with three significant digits."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def medians(samples: Iterable[Sequence[float]]) -> list[float]:
    """Returns the median of each column over the rows."""
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def measure_all(measures: dict[str, Callable[[Namespace], str]], arguments: Namespace) -> int:
    """Prints a table for each measurement; returns 1 if one failed, after all others ran."""
    status = 0
    for name, measure in measures.items():
        note(f"{name} ...")
        try:
            text = measure(arguments)
        except BenchmarkError as error:
            text, status = f"FAILED: {error}", 1
        print(f"### {name}\n\n{inspect.getdoc(measure)}\n\n{text}\n", flush=True)
    return status
