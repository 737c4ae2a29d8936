"""Measures pauses of other threads during tokenization: `python -m benchmarks.tokenization`.

The event loop is such a thread. Prints, for `encode` and `encode_batch` on a megabyte of text, the
time of the call and the longest pause of a thread that sleeps a millisecond at a time.
"""

import statistics
import threading
import time
from collections.abc import Callable

from tokenizers import Tokenizer

from src.engine.model.source import BUNDLED_FOLDER

TEXTS = {"letters": "a" * 10**6, "spaces": " " * 10**6, "words": "the cat sat " * 83_333}
REPEATS = 5


def longest_pause(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds of the work, and the longest pause of another thread meanwhile."""
    done = threading.Event()
    pauses: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    time.sleep(0.02)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    done.set()
    ticking.join()
    return seconds, max(pauses)


def main() -> None:
    """Prints medians of interleaved repeats."""
    tokenizer = Tokenizer.from_file(str(BUNDLED_FOLDER / "tokenizer.json"))
    calls = {
        "encode": tokenizer.encode,
        "encode_batch": lambda text: tokenizer.encode_batch([text]),
    }
    print("| text | call | seconds | longest pause of another thread |\n|---|---|---|---|")
    for name, text in TEXTS.items():
        measured: dict[str, list[tuple[float, float]]] = {call: [] for call in calls}
        for _ in range(REPEATS):
            for call, function in calls.items():
                measured[call].append(longest_pause(lambda f=function, t=text: f(t)))
        for call, results in measured.items():
            seconds, pause = map(statistics.median, zip(*results, strict=True))
            print(f"| {name} | {call} | {seconds:.3f} | {pause:.3f} |")


if __name__ == "__main__":
    main()
