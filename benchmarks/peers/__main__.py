"""Compares our engine with CTranslate2, OpenVINO GenAI and llama.cpp: `make bench-peers`, or
`python -m benchmarks.peers [--help]`.

Each round starts every system in turn, alone on the machine, warms it up and runs the same jobs:
several requests at once, 32 tokens of prompt and 64 new ones, greedy and with top-p 0.9. The models
have random weights, are converted to each system's format, and their greedy texts are compared with
HuggingFace's first. All systems use all cores. Without HTTP a system may take its batch whole, and
the time is from texts to texts. Servers get greedy requests from one client.

Measurements go to a JSON file, from which the tables (Markdown, also printed) and the plot (PNG)
beside it are made. --append adds rounds to an existing file, so that parts can be measured
separately.
"""

import argparse
import itertools
import signal
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks.bench_model import SHAPES, ensure_model
from benchmarks.peers.agreement import count_agreed, reference_tokens
from benchmarks.peers.peer import PRECISIONS
from benchmarks.peers.records import Agreement, Data, Failure, Speed
from benchmarks.peers.report import format_report
from benchmarks.peers.roofline import count_weights
from benchmarks.peers.summary import NEW, PROMPT
from benchmarks.peers.systems import (
    FLOAT32_ALONE,
    HTTP,
    PEERS,
    PEERS_FOLDER,
    SYSTEMS,
    measure_machine,
    python_of,
    run_command,
)
from benchmarks.prompts import Prompts
from benchmarks.report import note
from benchmarks.worker import ROOT
from benchmarks.workload import BenchmarkError, Job, Request, summarize

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
}
BATCHES = [1, 8, 32]
HTTP_BATCHES = [1, 8, 16, 32]
MIN_REQUESTS = 2
"""Number of prompt tokens and of new tokens of a job."""
WARM_UP_TOKENS = 4
COMPARED_TEXTS, COMPARED_TOKENS = 8, 32


def main() -> None:
    """Prints the tables; the exit status is 1 if a system failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SIGTERM ends workers too
    arguments = parse()
    if not arguments.from_data:
        measure(arguments)
    data = Data.load(arguments.data)
    report = format_report(data)
    arguments.data.with_suffix(".md").write_text(report + "\n")
    print(report)
    draw(arguments.data)
    sys.exit(int(bool(data.failures)))


def parse() -> Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--samplings", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--http-batches", type=int, nargs="+", default=HTTP_BATCHES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=RESULTS, help="the file of JSON")
    parser.add_argument("--append", action="store_true", help="add rounds to those in the file")
    parser.add_argument("--from-data", action="store_true", help="measure nothing, format anew")
    parser.add_argument(
        "--quick", action="store_true", help="one round of small batches, into a file aside"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.batches, arguments.http_batches = 1, [1, 4], [1, 4]
        arguments.data = PEERS_FOLDER / "quick.json"
    return arguments


def measure(arguments: Namespace) -> None:
    """Adds measurements to the data and writes it after every system, so that none is lost."""
    data = Data.load(arguments.data) if arguments.append else Data()
    note("the machine ...")
    data.machines.append(measure_machine())
    for name in arguments.models:
        folder = ensure_model(name)
        data.weights[name] = count_weights(folder)
        compare(arguments, data, name, folder)
    first = data.next_round
    for number in range(first, first + arguments.repeats):
        for name, precision, system in combinations(arguments):
            note(f"round {number}: {name} {precision} {system}")
            forget_failures(data, name, precision, system)
            try:
                run_jobs(arguments, data, name, precision, system, number)
            except BenchmarkError as error:
                data.failures.append(Failure(name, precision, system, str(error)))
                note(f"  FAILED: {error}")
            data.save(arguments.data)


def forget_failures(data: Data, *who: str) -> None:
    """Returns the measurements of earlier calls; failed ones are repeated."""
    data.failures = [f for f in data.failures if (f.model, f.precision, f.system) != who]


def combinations(arguments: Namespace) -> list[tuple[str, str, str]]:
    """Returns the requested systems that are installed."""
    chosen = (arguments.models, arguments.precisions, arguments.systems)
    return [
        (model, precision, system)
        for model, precision, system in itertools.product(*chosen)
        if precision == "float32" or system not in FLOAT32_ALONE
    ]


def compare(arguments: Namespace, data: Data, name: str, folder: Path) -> None:
    """Compares each peer's texts with HuggingFace's, once."""
    known = {
        (agreement.model, agreement.precision, agreement.system) for agreement in data.agreements
    }
    peers = [system for system in arguments.systems if system in PEERS]
    wanted = [
        (precision, system)
        for precision, system in itertools.product(arguments.precisions, peers)
        if (name, precision, system) not in known
    ]
    if not wanted:
        return
    prompts = Prompts(folder)
    texts = [Request(prompts.take(PROMPT), COMPARED_TOKENS) for _ in range(COMPARED_TEXTS)]
    job = Job(texts, COMPARED_TEXTS)
    reference = reference_tokens(folder, job)
    for precision, system in wanted:
        note(f"comparing texts: {name} {precision} {system}")
        try:
            tokens = PEERS[system].generate_greedily(folder, precision, job)
        except BenchmarkError as error:  # the measurement reports the same
            note(f"  FAILED: {error}")
            continue
        agreed = count_agreed(tokens, reference)
        data.agreements.append(Agreement(name, precision, system, COMPARED_TOKENS, agreed))


def run_jobs(
    arguments: Namespace, data: Data, name: str, precision: str, system: str, number: int
) -> None:
    """Starts a system, warms it up for each job, and runs it on the round's prompts."""
    folder = ensure_model(name)
    prompts = Prompts(folder, seed=number + 1)
    batches = arguments.http_batches if system in HTTP else arguments.batches
    samplings = ["greedy"] if system in HTTP else arguments.samplings
    with SYSTEMS[system](folder, precision) as run:
        for batch, sampling in itertools.product(batches, samplings):
            run(create_job(prompts, batch, sampling, WARM_UP_TOKENS))
            figures = summarize(run(create_job(prompts, batch, sampling, NEW)))
            speed = round(figures.tokens_per_second, 2)
            note(f"  {batch:3} {sampling}: {speed:.1f} tok/s")
            data.speeds.append(Speed(name, precision, system, sampling, batch, number, speed))


def create_job(prompts: Prompts, batch: int, sampling: str, max_tokens: int) -> Job:
    """Creates jobs, each with its own prompts, so that no prefix cache has them."""
    texts = [prompts.take(PROMPT) for _ in range(max(batch, MIN_REQUESTS))]
    return Job([Request(text, max_tokens, **SAMPLINGS[sampling]) for text in texts], batch)


def draw(data: Path) -> None:
    """Draws the plot, with the python of the environment that has matplotlib."""
    try:
        module = "benchmarks.peers.plot"
        run_command([python_of("plot"), "-m", module, str(data), str(data.with_suffix(".png"))])
    except BenchmarkError as error:
        note(f"no plot: {error}")


if __name__ == "__main__":
    main()
