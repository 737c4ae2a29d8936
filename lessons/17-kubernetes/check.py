"""Check of exercise 17."""

from typing import Any

# Each step is a time, the present replicas, the metric, and the right decision.
CASES = {
    "more demand": [(0, 2, 10, 2), (30, 2, 20, 4), (60, 4, 20, 8)],
    "the greatest number": [(0, 8, 30, 10)],
    "the least number": [(0, 2, 0, 2)],
    "within the tolerance": [(0, 3, 11, 3), (30, 3, 9, 3)],
    "just outside of it": [(0, 3, 11.1, 4)],
    "less demand, after the memory": [(0, 2, 40, 8), (60, 8, 5, 8), (300, 8, 5, 8), (361, 8, 5, 4)],
    "a wave": [(0, 4, 10, 4), (60, 4, 5, 4), (120, 4, 15, 6), (180, 6, 5, 6), (421, 6, 5, 3)],
    "a wish above the present number": [(0, 2, 40, 8), (60, 3, 20, 6)],
}


def check(answer: dict[str, Any]) -> None:
    """Plays demand and compares the decisions."""
    create = answer["Autoscaler"]
    create(10, 2, 10).decide(0, 2, 10)
    for name, steps in CASES.items():
        autoscaler = create(10, 2, 10)
        for now, replicas, metric, expected in steps:
            given = autoscaler.decide(now, replicas, metric)
            assert given == expected, (
                f"{name}: at second {now}, with {replicas} replicas and a metric of {metric} for a"
                f" target of 10, there should be {expected}, not {given}."
            )
