"""The engines, without HTTP: `python -m benchmarks.engines [--model NAME] [--engine KIND]`.

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
KINDS = ("reference", "continuous")
PROMPTS = ("Once upon a time", "Long ago", "One day,", "This is the story of")


async def tokens_per_second(engine: InferenceEngine, num_requests: int, greedy: bool) -> float:
    """Output tokens a second while `num_requests` run at once."""
    params = SamplingParams(max_tokens=64, temperature=0 if greedy else 0.7, seed=1)
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(num_requests)]
    started = time.perf_counter()
    answers = await asyncio.gather(*(engine.generate(prompt, params) for prompt in prompts))
    seconds = time.perf_counter() - started
    return sum(answer.completions[0].num_tokens for answer in answers) / seconds


def main() -> None:
    """Measures one engine, or both in turns.

    Two engines in one process also have two pools of OpenMP threads, which slow each other down.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="storyteller")
    parser.add_argument("--engine", choices=KINDS, action="append", help="default: both")
    arguments = parser.parse_args()
    engines = {}
    for kind in arguments.engine or KINDS:
        config = EngineConfig(arguments.model, engine=kind)
        engines[kind] = InferenceEngine(config, timeout_seconds=3600)
        engines[kind].load_model()
    print(f"| requests at once | sampling | {' | '.join(f'{kind} tok/s' for kind in engines)} |")
    print("|---" * (2 + len(engines)) + "|")
    for greedy in (True, False):
        for num_requests in CONCURRENCY:
            speeds: dict[str, list[float]] = {kind: [] for kind in engines}
            for _ in range(REPEATS):
                for kind, engine in engines.items():
                    speed = asyncio.run(tokens_per_second(engine, num_requests, greedy))
                    speeds[kind].append(speed)
            medians = " | ".join(f"{statistics.median(found):.0f}" for found in speeds.values())
            print(f"| {num_requests} | {'greedy' if greedy else 'top-p 0.9'} | {medians} |")
    for engine in engines.values():
        engine.shutdown()


if __name__ == "__main__":
    main()
