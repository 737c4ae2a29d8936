"""The engines side by side, without HTTP: `python -m benchmarks.engines [--model NAME]`.

Prints output tokens per second at several numbers of concurrent requests, medians over interleaved
repeats. Prompts are of mixed lengths; every request asks for the same number of tokens.
"""

import argparse
import asyncio
import statistics
import time

from src.engine.config import EngineConfig
from src.engine.sampling_params import SamplingParams
from src.inference import InferenceEngine

CONCURRENCY = (1, 4, 16, 32)
REPEATS = 3
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "The future of AI is",
    "3 + 4 = 7. 8 + 9 =",
)


async def tokens_per_second(engine: InferenceEngine, num_requests: int, greedy: bool) -> float:
    """Output tokens a second while `num_requests` run at once."""
    params = SamplingParams(max_tokens=64, temperature=0 if greedy else 0.7, seed=1)
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(num_requests)]
    started = time.perf_counter()
    answers = await asyncio.gather(*(engine.generate(prompt, params) for prompt in prompts))
    seconds = time.perf_counter() - started
    return sum(answer.completions[0].num_tokens for answer in answers) / seconds


def main() -> None:
    """Loads each engine once, and lets them take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="storyteller")
    model = parser.parse_args().model
    engines = {}
    for kind in ("reference", "continuous"):
        engines[kind] = InferenceEngine(EngineConfig(model, engine=kind), timeout_seconds=3600)
        engines[kind].load_model()
    print("| requests at once | sampling | reference tok/s | continuous tok/s | ratio |")
    print("|---|---|---|---|---|")
    for greedy in (True, False):
        for num_requests in CONCURRENCY:
            speeds: dict[str, list[float]] = {kind: [] for kind in engines}
            for _ in range(REPEATS):
                for kind, engine in engines.items():
                    speeds[kind].append(
                        asyncio.run(tokens_per_second(engine, num_requests, greedy))
                    )
            slow, fast = (statistics.median(speeds[kind]) for kind in engines)
            how = "greedy" if greedy else "top-p 0.9"
            print(f"| {num_requests} | {how} | {slow:.0f} | {fast:.0f} | {fast / slow:.1f} |")
    for engine in engines.values():
        engine.shutdown()


if __name__ == "__main__":
    main()
