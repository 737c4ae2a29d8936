"""Check of exercise 13."""

from typing import Any

CASES = [
    ("no growth", [(0, 5), (15, 5)], 0, 0),
    ("steady growth", [(0, 10), (15, 40), (30, 70)], 60, 2),
    ("a start that is not at 0", [(100, 1000), (110, 1050)], 50, 5),
    ("a restart", [(0, 100), (10, 120), (20, 30), (30, 40)], 60, 2),
    ("two restarts", [(0, 8), (5, 3), (10, 2)], 5, 0.5),
    ("a restart to exactly 0", [(0, 7), (10, 0), (20, 20)], 20, 1),
    ("a single reading", [(0, 7)], 0, None),
    ("no reading", [], 0, None),
]


def check(answer: dict[str, Any]) -> None:
    """Compares growth and rate of recorded counters."""
    answer["increase"]([(0, 1), (1, 2)])
    for name, readings, growth, per_second in CASES:
        given = answer["increase"](readings)
        assert given == growth, f"{name}, {readings}: `increase` is {growth}, not {given}."
        given = answer["rate"](readings)
        assert given == per_second, f"{name}, {readings}: `rate` is {per_second}, not {given}."
