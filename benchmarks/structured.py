"""Measures structured output over HTTP beside plain text: `python -m benchmarks.structured`.

For each number of clients it prints tokens per second with and without a JSON schema, medians of
several rounds in turn. Then it prints the time of a request for one token: with a new schema, with
a compiled one, and without.
"""

import argparse
import asyncio
import statistics
import time
from itertools import count

import httpx2

from benchmarks.bench_model import ensure_model
from benchmarks.servers import serve_ours
from benchmarks.systems import UNAIDED

MAX_TOKENS = 64
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 200},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age"],
}
_numbers = count(time.time_ns())


async def complete(
    client: httpx2.AsyncClient, model: str, schema: object, max_tokens: int = MAX_TOKENS
) -> int:
    """Sends a request; returns its number of generated tokens."""
    body = {
        "model": model,
        "prompt": "Once upon a time",
        "max_tokens": max_tokens,
        "temperature": 1,
        "seed": next(_numbers) % 1000,
    }
    shape = {} if schema is None else {"guided_json": schema}
    answer = await client.post("/v1/completions", json=body | shape)
    answer.raise_for_status()
    tokens: int = answer.json()["usage"]["completion_tokens"]
    return tokens


async def throughput(
    client: httpx2.AsyncClient, model: str, schema: object, num_clients: int, seconds: float
) -> float:
    """Returns tokens per second of clients in a loop."""
    started = time.perf_counter()

    async def ask() -> int:
        tokens = 0
        while time.perf_counter() < started + seconds:
            tokens += await complete(client, model, schema)
        return tokens

    tokens = await asyncio.gather(*(ask() for _ in range(num_clients)))
    return sum(tokens) / (time.perf_counter() - started)


async def latency(
    client: httpx2.AsyncClient, model: str, *, has_schema: bool, is_new: bool
) -> float:
    """Returns milliseconds of a request for one token."""
    schema = SCHEMA | {"title": str(next(_numbers))} if is_new else SCHEMA
    started = time.perf_counter()
    await complete(client, model, schema if has_schema else None, max_tokens=1)
    return 1000 * (time.perf_counter() - started)


async def measure(url: str, model: str, rounds: int, seconds: float, clients: list[int]) -> None:
    """Prints all figures of a server."""
    async with httpx2.AsyncClient(base_url=url, timeout=300) as client:
        print("| clients | plain, tokens/s | schema, tokens/s | ratio |\n|---|---|---|---|")
        for num_clients in clients:
            plain, shaped = [], []
            for _ in range(rounds):
                plain.append(await throughput(client, model, None, num_clients, seconds))
                shaped.append(await throughput(client, model, SCHEMA, num_clients, seconds))
            plain_speed, shaped_speed = statistics.median(plain), statistics.median(shaped)
            print(
                f"| {num_clients} | {plain_speed:.1f} | {shaped_speed:.1f} |"
                f" {shaped_speed / plain_speed:.2f} |",
                flush=True,
            )
        for name, options in (
            ("plain", {"has_schema": False, "is_new": False}),
            ("compiled before", {"has_schema": True, "is_new": False}),
            ("new schema", {"has_schema": True, "is_new": True}),
        ):
            times = [await latency(client, model, **options) for _ in range(10 * rounds)]
            print(f"{name}, one token: {statistics.median(times):.1f} ms")


def main() -> None:
    """Serves a model and measures it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the benchmarks' own, of gpt2's shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each round")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    model = options.model or str(ensure_model())
    with serve_ours(model, **UNAIDED) as server:
        asyncio.run(measure(server.url, model, options.rounds, options.seconds, options.clients))


if __name__ == "__main__":
    main()
