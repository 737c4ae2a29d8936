"""Compares a batch with clients that send its lines: `python -m benchmarks.batches`.

The same chats, each with its own prompt, as lines of a batch and from 32 clients that send the next
one as soon as the last is answered. Uses the bundled model unless --model names another.
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from benchmarks.report import create_parser, measure_all, parse, table
from benchmarks.servers import Server, serve_ours
from benchmarks.worker import ROOT
from benchmarks.workload import BenchmarkError

STORYTELLER = Path(ROOT) / "src" / "bundled" / "storyteller"
CLIENTS = 32
CHATS = "/v1/chat/completions"
POLL_SECONDS = 0.2


def bodies(model: str, arguments: Namespace, first: int) -> list[dict[str, object]]:
    """Creates chats with new prompts, greedy and of one length."""
    fields = {"model": model, "max_tokens": arguments.max_tokens, "temperature": 0}
    return [
        fields
        | {"ignore_eos": True, "messages": [{"role": "user", "content": f"Tell me {number}."}]}
        for number in range(first, first + arguments.lines)
    ]


def ask_all(url: str, requests: list[dict[str, object]]) -> int:
    """Sends all requests, CLIENTS at once; returns the number of new tokens."""

    def ask(body: dict[str, object]) -> int:
        answer = client.post(url + CHATS, json=body)
        if answer.status_code != 200:
            raise BenchmarkError(f"{answer.status_code}: {answer.text[:200]}")
        return int(answer.json()["usage"]["completion_tokens"])

    with httpx2.Client(timeout=600) as client, ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(ask, requests))


def run_batch(server: Server, requests: list[dict[str, object]]) -> int:
    """Runs a batch from its upload to its end; returns the number of new tokens."""
    lines = (
        {"custom_id": str(number), "method": "POST", "url": CHATS, "body": body}
        for number, body in enumerate(requests)
    )
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with httpx2.Client(base_url=server.url, timeout=600) as client:
        file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in", data)})
        wanted = {"input_file_id": file.json()["id"], "endpoint": CHATS, "completion_window": "24h"}
        batch = client.post("/v1/batches", json=wanted).json()
        while batch["status"] not in ("completed", "failed"):
            time.sleep(POLL_SECONDS)
            batch = client.get(f"/v1/batches/{batch['id']}").json()
    if batch["request_counts"]["completed"] != len(requests):
        raise BenchmarkError(f"{batch['status']}: {batch['request_counts']}")
    return int(batch["usage"]["output_tokens"])


def throughput(arguments: Namespace) -> str:
    """New tokens per second of the same chats: from 32 clients, and as a batch."""
    model, rows = str(arguments.model), []
    settings: dict[str, object] = {
        "quantization": arguments.quantization,
        "batch_concurrency": arguments.concurrency,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_ours(model, batch_dir=folder, **settings) as server,
    ):
        ask_all(server.url, bodies(model, arguments, 0)[:CLIENTS])
        for repeat in range(arguments.repeats):
            speeds = []
            for kind in range(2):
                first = (1 + 2 * repeat + kind) * arguments.lines
                requests = bodies(model, arguments, first)
                started = time.perf_counter()
                tokens = run_batch(server, requests) if kind else ask_all(server.url, requests)
                speeds.append(tokens / (time.perf_counter() - started))
            clients, batch = speeds
            rows.append([f"{clients:.0f}", f"{batch:.0f}", f"{batch / clients:.2f}"])
    return table(["32 clients", "batch", "ratio"], rows)


def main() -> None:
    """Runs the measurement; the exit status is 1 if it failed."""
    parser = create_parser(__doc__)
    parser.set_defaults(model=STORYTELLER)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=50)
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--concurrency", type=int, default=32, help="BATCH_CONCURRENCY")
    arguments = parse(parser)
    if arguments.quick:
        arguments.lines, arguments.max_tokens = 64, 8
    sys.exit(measure_all({"throughput": throughput}, arguments))


if __name__ == "__main__":
    main()
