"""Measures the memory of a process for docs/deployment.md: `python -m benchmarks.memory`.

Runs the service with the bundled model and with one of gpt2-small's shape, and fills the whole KV
cache with prompts without common prefixes. Prints the memory when the service is ready, after one
short request and with the cache full, beside the sizes of weights and cache.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import httpx2
from safetensors import safe_open

from benchmarks.bench_model import ensure_model
from benchmarks.report import table
from benchmarks.servers import Server, serve_ours
from src.engine.model.source import BUNDLED_FOLDER

MIB = 2**20
MAX_BATCH_SIZE = 4
NUM_CONTEXTS = 2 * MAX_BATCH_SIZE  # of which the cache holds the tokens
BYTES = 4  # float32


def measure(name: str, folder: Path) -> list[object]:
    """A row of the table."""
    config = json.loads((folder / "config.json").read_text())
    weights = num_parameters(folder) * BYTES / MIB
    per_token = config["n_layer"] * 2 * config["n_embd"] * BYTES  # both are of gpt2's family
    with serve_ours(str(folder), max_batch_size=MAX_BATCH_SIZE) as server:
        (served,) = httpx2.get(f"{server.url}/v1/models").json()["data"]
        context = served["max_model_len"]
        cache = NUM_CONTEXTS * context * per_token / MIB
        held = [server.memory()]
        # One more than fit: the last block of each is not full, so it is free again.
        for num_tokens, number in [(10, 1), (context - 1, NUM_CONTEXTS + 1)]:
            for prompt in prompts(num_tokens, number, config["vocab_size"]):
                ask(server, served["id"], prompt)
            held.append(server.memory())
        held.append(server.memory("RssFile"))
        assert server.sample("inference_kv_cache_usage_ratio") > 0.99
    return [name, *(f"{number:.0f}" for number in (weights, cache, *held))]


def num_parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118


def prompts(num_tokens: int, number: int, vocab_size: int) -> Iterator[list[int]]:
    draw = random.Random(num_tokens)  # noqa: S311 - the same prompts each time
    for _ in range(number):
        yield [draw.randrange(vocab_size // 2, vocab_size) for _ in range(num_tokens)]


def ask(server: Server, model: str, prompt: list[int]) -> None:
    body = {"model": model, "prompt": prompt, "max_tokens": 1}
    httpx2.post(f"{server.url}/v1/completions", json=body, timeout=600).raise_for_status()


def main() -> None:
    models = {"storyteller": BUNDLED_FOLDER, "gpt2-small's shape": ensure_model()}
    head = ["model", "weights", "KV cache", "ready", "one request", "cache full", "files"]
    print(table(head, [measure(name, folder) for name, folder in models.items()]))
    print("MiB. The process's own (RssAnon), and at the end the files it has mapped (RssFile).")


if __name__ == "__main__":
    main()
