"""Measures what a listener of the engine's steps costs: `python -m benchmarks.events`.

32 streams at once, in alternating rounds with and without a reader of `/v1/engine/events`, which
the playground's view of the engine reads. Uses gpt2-small's shape unless --model names another.
"""

import statistics
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import httpx2

from benchmarks.prompts import Prompts
from benchmarks.report import create_parser, measure_all, parse, table
from benchmarks.servers import serve_ours
from benchmarks.worker import start_worker
from benchmarks.workload import BenchmarkError, summarize

STREAMS = 32


@contextmanager
def listening(url: str) -> Iterator[None]:
    """Reads the engine's events meanwhile."""
    is_over, num_events = threading.Event(), 0

    def read() -> None:
        nonlocal num_events
        with httpx2.stream("GET", f"{url}/v1/engine/events?seconds=600", timeout=60) as response:
            for line in response.iter_lines():
                num_events += line.startswith("data:")
                if is_over.is_set():
                    return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(60)
    if num_events < 2:
        raise BenchmarkError("the listener got no events")


def cost(arguments: Namespace) -> str:
    """Tokens per second of 32 streams without and with a listener, and the median of their ratios
    over the rounds.
    """
    prompts = Prompts(arguments.model)
    speeds: list[list[float]] = []
    with (
        serve_ours(str(arguments.model), playground="true") as server,
        start_worker("benchmarks.load", "--url", server.url, "--protocol", "generate") as run,
    ):
        run(prompts.job(STREAMS, 4))
        for number in range(arguments.rounds):
            pair = [0.0, 0.0]
            for is_listening in (False, True) if number % 2 else (True, False):
                with listening(server.url) if is_listening else nullcontext():
                    job = prompts.job(STREAMS, arguments.max_tokens)
                    pair[is_listening] = summarize(run(job)).tokens_per_second
            speeds.append(pair)
    without, listened = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratio = statistics.median(after / before for before, after in speeds)
    row = [f"{without:.0f}", f"{listened:.0f}", f"{ratio:.3f}"]
    return table(["without", "with a listener", "ratio"], [row])


def main() -> None:
    """Runs the measurement; the exit status is 1 if it failed."""
    parser = create_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parse(parser)
    if arguments.quick:
        arguments.rounds, arguments.max_tokens = 2, 8
    sys.exit(measure_all({"cost": cost}, arguments))


if __name__ == "__main__":
    main()
