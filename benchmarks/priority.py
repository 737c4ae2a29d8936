"""Measures interactive requests in front of batch work: `python -m benchmarks.priority`.

Clients keep `--waiting` background requests (`service_tier: flex`) open all the time, twice as many
as the default of running places. Uses the bundled model unless --model names another.
"""

import statistics
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from benchmarks.report import create_parser, measure_all, milliseconds, parse, table
from benchmarks.servers import Server, serve_ours
from benchmarks.worker import ROOT
from benchmarks.workload import BenchmarkError

STORYTELLER = Path(ROOT) / "src" / "bundled" / "storyteller"
WORDS = ["Once", "upon", "a", "time", "there", "was", "a", "small", "dragon", "in", "the", "wood"]
WARM_UP_SECONDS = 2.0  # until background requests are spread over their lengths


class Load:
    """Requests to one server; prompts differ, so none hits another's cached prefix.

    Args:
        url: base URL of the server.
        model: the model's name there.
        arguments: of the command.
    """

    def __init__(self, url: str, model: str, arguments: Namespace) -> None:
        self._url = url + "/v1/completions"
        self._model = model
        self._arguments = arguments
        self._number = 0
        self._lock = threading.Lock()

    def _body(self, max_tokens: int, tier: str, num_words: int) -> dict[str, object]:
        with self._lock:
            self._number += 1
            number = self._number
        words = [WORDS[(number + i * (1 + number % 5)) % len(WORDS)] for i in range(num_words)]
        prompt = f"{number} " + " ".join(words)
        fields = {"temperature": 1, "ignore_eos": True, "service_tier": tier}
        return {"model": self._model, "prompt": prompt, "max_tokens": max_tokens} | fields

    def answer(self, client: httpx2.Client, tier: str) -> int:
        """Asks for a whole answer; returns its number of tokens."""
        body = self._body(self._arguments.max_tokens, tier, 12)
        answer = client.post(self._url, json=body)
        if answer.status_code != 200:
            raise BenchmarkError(f"{answer.status_code}: {answer.text[:200]}")
        return answer.json()["usage"]["completion_tokens"]

    def first_token(self, tier: str = "default") -> float:
        """Returns seconds to the first event of a short stream."""
        body = self._body(4, tier, self._arguments.prompt_words) | {"stream": True}
        started = time.perf_counter()
        first = None
        with httpx2.stream("POST", self._url, json=body, timeout=600) as response:
            for line in response.iter_lines():
                if first is None and line.startswith("data:"):
                    first = time.perf_counter() - started
        if first is None:
            raise BenchmarkError(f"no stream came: {response.status_code}")
        return first

    @contextmanager
    def open_requests(self, tier: str) -> Iterator[list[int]]:
        """Keeps requests of a tier open; yields the tokens of those that have ended so far."""
        tokens: list[int] = []
        is_over = threading.Event()

        def ask_again_and_again() -> None:
            with httpx2.Client(timeout=600) as client:
                while not is_over.is_set():
                    tokens.append(self.answer(client, tier))

        num = self._arguments.waiting
        with ThreadPoolExecutor(num) as pool:
            running = [pool.submit(ask_again_and_again) for _ in range(num)]
            try:
                time.sleep(WARM_UP_SECONDS)
                yield tokens
            finally:
                is_over.set()
        for one in running:
            one.result()


def first_tokens(arguments: Namespace) -> str:
    """Medians of milliseconds to a default request's first token: alone, beside background
    requests, and beside as many default ones; the mean step beside the background.
    """
    with serve_ours(str(arguments.model)) as server:
        load = Load(server.url, str(arguments.model), arguments)
        for _ in range(5):
            load.first_token()
        alone = [load.first_token() for _ in range(arguments.samples)]
        rows = [["alone", milliseconds(statistics.median(alone)), "", "1.00", ""]]
        for tier in ("flex", "default"):
            with load.open_requests(tier):
                before = step_sums(server)
                times = []
                for _ in range(arguments.samples):
                    times.append(load.first_token())
                    time.sleep(0.05)
                after = step_sums(server)
            step = (after[0] - before[0]) / (after[1] - before[1])
            median = statistics.median(times)
            beyond = (median - step) / statistics.median(alone)
            p95 = sorted(times)[int(len(times) * 0.95)]
            label = f"beside {arguments.waiting} of the tier {tier}"
            figures = [milliseconds(median), milliseconds(p95), f"{beyond:.2f}"]
            rows.append([label, *figures, milliseconds(step)])
    header = ["", "first token", "95th percentile", "(first token - step) / alone", "step"]
    return table(header, rows)


def step_sums(server: Server) -> tuple[float, float]:
    """Returns the seconds and the number of all steps so far."""
    name = "inference_step_seconds"
    return server.sample(f"{name}_sum"), server.sample(f"{name}_count")


def throughput(arguments: Namespace) -> str:
    """Tokens per second of as many open requests without other load, by tier; rounds alternate."""
    tiers = ("default", "flex")
    speeds: dict[str, list[float]] = {tier: [] for tier in tiers}
    with serve_ours(str(arguments.model)) as server:
        load = Load(server.url, str(arguments.model), arguments)
        for number in range(arguments.repeats):
            for tier in tiers if number % 2 else tiers[::-1]:
                with load.open_requests(tier):
                    before = server.sample("generated_tokens_total")
                    time.sleep(arguments.seconds)
                    made = server.sample("generated_tokens_total") - before
                speeds[tier].append(made / arguments.seconds)
    medians = {tier: statistics.median(speeds[tier]) for tier in tiers}
    ratio = statistics.median(
        flex / default for flex, default in zip(speeds["flex"], speeds["default"], strict=True)
    )
    row = [f"{medians['default']:.0f}", f"{medians['flex']:.0f}", f"{ratio:.2f}"]
    return table(["default", "flex", "ratio"], [row])


def main() -> None:
    """Runs both measurements; the exit status is 1 if one failed."""
    parser = create_parser(__doc__)
    parser.set_defaults(model=STORYTELLER)
    parser.add_argument("--waiting", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--prompt-words", type=int, default=100)
    parser.add_argument("--samples", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parse(parser)
    if arguments.quick:
        arguments.samples, arguments.seconds = 5, 2
    sys.exit(measure_all({"first tokens": first_tokens, "throughput": throughput}, arguments))


if __name__ == "__main__":
    main()
