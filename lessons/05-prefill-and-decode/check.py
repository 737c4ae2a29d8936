"""Check of exercise 5."""

from typing import Any

CASES: list[tuple[list[int], int, list[int]]] = [
    ([1, 1, 1], 8, [1, 1, 1]),
    ([900], 64, [64]),
    ([900, 1, 1], 64, [62, 1, 1]),
    ([10, 900], 64, [10, 54]),
    ([900, 10], 64, [64, 0]),
    ([5, 1, 6], 64, [5, 1, 6]),
    ([1, 1, 2], 3, [1, 1, 1]),
]


def check(answer: dict[str, Any]) -> None:
    """Tries single steps, then a whole run: no stream may miss a step."""
    plan = answer["plan"]
    for missing, budget, expected in CASES:
        shares = plan(list(missing), budget)
        assert shares == expected, (
            f"Sequences that lack {missing} tokens, budget {budget}: {expected}, not {shares}."
        )
    missing, num_steps = [1, 1, 1, 200], 0
    while missing[-1] > 1:
        shares = plan(list(missing), 16)
        assert sum(shares) <= 16, f"A step has {sum(shares)} tokens, and the budget is 16."
        assert shares[:3] == [1, 1, 1], f"A stream waits in step {num_steps + 1}: {shares}."
        missing[-1] = max(1, missing[-1] - shares[-1])
        num_steps += 1
        assert num_steps < 100, "A prompt of 200 tokens is never finished."
    assert num_steps == 16, f"A prompt of 200 tokens takes 16 steps of 13, not {num_steps}."
