"""Check of exercise 11."""

import random
import sys
from typing import Any

CASES = [
    ("a burst", 2, 60, [(0, 0), (0, 0), (0, 60)]),
    ("the edge of a minute", 2, 60, [(59, 0), (59, 0), (60, 59), (118, 1), (119, 0)]),
    ("refused requests, which do not count", 1, 10, [(0, 0), (9, 1), (10, 0), (19, 1), (20, 0)]),
    ("requests that are spread", 2, 10, [(0, 0), (6, 0), (7, 3), (10, 0), (11, 5), (16, 0)]),
]


def check(answer: dict[str, Any]) -> None:
    """Sends requests at given times, then at random ones, and looks at memory."""
    create = answer["MovingWindow"]
    create(1, 1).hit(0)
    for name, limit, period, hits in CASES:
        window = create(limit, period)
        for now, expected in hits:
            given = window.hit(now)
            assert given == expected, (
                f"{name}, {limit} in {period} s:"
                f" at second {now} the wait is {expected}, not {given}."
            )
    rng = random.Random(11)
    window, now, admitted = create(5, 10), 0, []
    for _ in range(3000):
        now += rng.choice([0, 0, 1, 2, 3])
        if window.hit(now) == 0:
            admitted.append(now)
    for first, sixth in zip(admitted, admitted[5:], strict=False):
        assert sixth - first >= 10, f"Six requests were admitted from second {first} to {sixth}."
    sizes = [sys.getsizeof(one) for one in vars(window).values()]
    assert sum(sizes) < 5000, "It keeps requests that no longer count, so its memory grows."
