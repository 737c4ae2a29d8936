"""Check of exercise 19."""

from typing import Any

GB = 10**9
TOY = (1000, 2, 3, 4, 64)  # 1,000 weights, 48 numbers for a token, a context of 64
LLAMA = (8_030_000_000, 32, 8, 128, 131_072)
CASES = [
    ("exactly one block", TOY, 1000 + 16 * 48, 16, 1, 0, 1),
    ("a byte too few", TOY, 1000 + 16 * 48 - 1, 16, 1, 0, 0),
    ("17 tokens, which take two blocks", TOY, 1000 + 3 * 16 * 48, 17, 1, 0, 1),
    ("two bytes for each number", TOY, 2 * (1000 + 4 * 16 * 48), 32, 2, 0, 2),
    ("a runtime", TOY, 500 + 1000 + 4 * 16 * 48, 16, 1, 500, 4),
    ("weights that do not fit", TOY, 900, 16, 1, 0, 0),
    ("the whole context", TOY, 1000 + 4 * 16 * 48, 64, 1, 0, 1),
    ("more than the context", TOY, 10**9, 65, 1, 0, 0),
    ("Llama-3.1-8B on 24 GB", LLAMA, 24 * GB, 2000, 2, GB, 26),
    ("Llama-3.1-8B on 16 GB", LLAMA, 16 * GB, 2000, 2, GB, 0),
]


def check(answer: dict[str, Any]) -> None:
    """Plans small models by hand, and a real one."""
    for name, numbers, memory, tokens, size, runtime, expected in CASES:
        model = answer["Model"](*numbers)
        given = answer["plan"](model, memory, tokens, bytes_per_number=size, runtime=runtime)
        assert given == expected, (
            f"{name}, {memory:,} bytes of memory, requests of {tokens} tokens: {expected} run at"
            f" the same time, not {given}."
        )
