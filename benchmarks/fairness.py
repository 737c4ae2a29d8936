"""Measures a calm key's first token beside another key's flood: `python -m benchmarks.fairness`.

The flood is ten requests of 32 sequences each. A second measurement sends one request for 128
sequences to an idle server. Both use the bundled model unless --model names another.
"""

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2

from benchmarks.report import create_parser, measure_all, medians, milliseconds, parse, table
from benchmarks.servers import serve_ours
from benchmarks.worker import ROOT
from benchmarks.workload import BenchmarkError

STORYTELLER = Path(ROOT) / "src" / "bundled" / "storyteller"
FLOOD_REQUESTS = 10
FLOOD_SEQUENCES = 32
MANY_SEQUENCES = 128
PROMPT = "Once upon a time"
QUEUE_TIMEOUT_SECONDS = 30  # default of the service
PAUSE_SECONDS = 0.5  # seconds of flood before the calm key's requests


class Client:
    """A client with one key.

    Args:
        url: base URL of the server.
        model: the model's name there.
        key: API key; None if the server needs none.
    """

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        self._model = model
        self._url = url + "/v1/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, num_sequences: int, max_tokens: int) -> int:
        """Returns the status of an answer without stream."""
        body = self._body(max_tokens, n=num_sequences)
        return httpx2.post(self._url, json=body, headers=self._headers, timeout=600).status_code

    def time_to_first_token(self) -> float:
        """Returns seconds to the first event of a stream of four tokens; reads it to its end."""
        body = self._body(4, stream=True)
        started = time.monotonic()
        first_token = None
        with httpx2.stream(
            "POST", self._url, json=body, headers=self._headers, timeout=600
        ) as response:
            for line in response.iter_lines():
                if first_token is None and line.startswith("data:"):
                    first_token = time.monotonic() - started
        if first_token is None or response.status_code != 200:
            raise BenchmarkError(f"no stream came: {response.status_code}")
        return first_token

    def _body(self, max_tokens: int, **more: object) -> dict[str, object]:
        body = {"model": self._model, "prompt": PROMPT, "max_tokens": max_tokens}
        return body | {"temperature": 1, "ignore_eos": True} | more


def flooded(arguments: Namespace) -> str:
    """Measures milliseconds to the first token, alone and beside the flood, and the flood's
    statuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        keys = [create_key(file, name) for name in ("calm", "flood")]
        settings = {"auth": "api_key", "api_keys_file": file, **fixed(arguments)}
        with serve_ours(str(arguments.model), **settings) as server, ThreadPoolExecutor() as pool:
            calm, flood = (Client(server.url, str(arguments.model), key) for key in keys)
            calm.time_to_first_token()  # warms up
            idle = medians([[calm.time_to_first_token()] for _ in range(9)])[0]
            running = [
                pool.submit(flood.ask, FLOOD_SEQUENCES, arguments.max_tokens)
                for _ in range(FLOOD_REQUESTS)
            ]
            amid = times_amid(running, calm)
            statuses = Counter(future.result() for future in running)
    rows = [[milliseconds(idle), ", ".join(map(milliseconds, amid)), dict(statuses)]]
    return table(["idle", "beside the flood, one after another", "the flood's statuses"], rows)


def times_amid(running: list[Future[int]], calm: Client) -> list[float]:
    """Returns the times to first token of up to eight requests while the flood runs."""
    times: list[float] = []
    while len(times) < 8 and not any(future.done() for future in running):
        time.sleep(PAUSE_SECONDS)
        times.append(calm.time_to_first_token())
    return times


def many(arguments: Namespace) -> str:
    """Returns status and seconds of one request for 128 sequences on an idle server."""
    with serve_ours(str(arguments.model), **fixed(arguments)) as server:
        client = Client(server.url, str(arguments.model))
        started = time.monotonic()
        status = client.ask(MANY_SEQUENCES, arguments.max_tokens)
        seconds = time.monotonic() - started
    return table(["status", "seconds"], [[status, f"{seconds:.1f}"]])


def fixed(arguments: Namespace) -> dict[str, object]:
    """Returns the settings of both measurements."""
    return {
        "queue_timeout_seconds": arguments.queue_timeout,
        "max_batch_size": arguments.max_batch_size,
    }


def create_key(file: Path, name: str) -> str:
    """Creates an API key."""
    command = [sys.executable, "-m", "src", "keys", "--file", str(file), "create", name]
    done = subprocess.run(  # noqa: S603 - our own command
        command, check=True, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout.strip()


def main() -> None:
    """Runs both measurements; the exit status is 1 if one failed."""
    parser = create_parser(__doc__)
    parser.set_defaults(model=STORYTELLER)
    parser.add_argument("--max-tokens", type=int, default=450)
    parser.add_argument("--max-batch-size", type=int, default=32)
    parser.add_argument("--queue-timeout", type=float, default=QUEUE_TIMEOUT_SECONDS)
    arguments = parse(parser)
    if arguments.quick:
        arguments.max_tokens = 16
    sys.exit(measure_all({"flooded": flooded, "many": many}, arguments))


if __name__ == "__main__":
    main()
