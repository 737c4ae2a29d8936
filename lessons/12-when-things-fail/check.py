"""Check of exercise 12."""

from typing import Any

# Each step is a time, whether a call is allowed then, and its result (None: no call is made).
CASES = {
    "calls that succeed": [(0, True, True), (1, True, True), (2, True, True)],
    "two failures in a row": [(0, True, False), (1, True, False), (1, False, None)],
    "failures with a success between them": [
        (0, True, False),
        (1, True, True),
        (2, True, False),
        (3, True, True),
        (4, True, False),
        (5, True, True),
    ],
    "the pause, and a trial that succeeds": [
        (0, True, False),
        (0, True, False),
        (9.9, False, None),
        (10, True, True),
        (10, True, False),
        (10, True, True),
    ],
    "a trial that fails": [
        (0, True, False),
        (0, True, False),
        (12, True, False),
        (21, False, None),
        (22, True, True),
        (22, True, True),
    ],
}


def check(answer: dict[str, Any]) -> None:
    """Plays calls and their results."""
    create = answer["CircuitBreaker"]
    create(2, 10).allows(0)
    for name, steps in CASES.items():
        breaker = create(2, 10)
        for now, expected, is_success in steps:
            given = breaker.allows(now)
            assert given is expected, (
                f"{name}: at second {now} `allows` is {expected}, not {given}."
            )
            if is_success is not None:
                breaker.record(now, is_success=is_success)
    breaker = create(1, 10)
    breaker.allows(0)
    breaker.record(0, is_success=False)
    assert breaker.allows(10), "After the pause one call is allowed as a trial."
    assert not breaker.allows(11), "While the trial runs no second call is allowed."
    breaker = create(2, 10)
    for now in (0, 0):
        assert breaker.allows(now)
    for now in (1, 2):
        breaker.record(now, is_success=False)
    assert not breaker.allows(11), "Open since second 2 with a pause of 10: closed at 11 already."
