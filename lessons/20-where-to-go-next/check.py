"""Check of exercise 20."""

import os
import subprocess
import sys
from collections import Counter
from typing import Any

USERS = [f"user-{number}" for number in range(4000)]
HALVES = {"A": 0.5, "B": 0.5}
PROGRAM = """
import runpy, sys
answer = runpy.run_path(sys.argv[1])
print("".join(answer["variant"](f"user-{n}", "x", {"A": 0.5, "B": 0.5}) for n in range(100)))
"""


def count(variant: Any, experiment: str, shares: dict[str, float]) -> Counter[str]:
    return Counter(variant(user, experiment, shares) for user in USERS)


def check(answer: dict[str, Any]) -> None:
    """Assigns thousands of users, in this process and in another."""
    variant = answer["variant"]
    assert variant("a", "x", HALVES) in HALVES, "The result is the name of a variant."
    for shares in (HALVES, {"A": 0.9, "B": 0.1}, {"A": 0.2, "B": 0.3, "C": 0.5}):
        counts = count(variant, "x", shares)
        for name, share in shares.items():
            given = counts[name] / len(USERS)
            assert abs(given - share) < 0.04, f"{name} of {shares} gets {given:.0%} of the users."
    for shares in ({"A": 0.0, "B": 1.0}, {"A": 1.0, "B": 0.0}):
        given = dict(count(variant, "x", shares))
        assert len(given) == 1, f"A share of 0 gets nobody: {shares} gives {given}."
    same = sum(variant(one, "x", HALVES) == variant(one, "y", HALVES) for one in USERS)
    assert abs(same / len(USERS) - 0.5) < 0.04, (
        f"In two experiments {same / len(USERS):.0%} of the users have the same variant; by chance"
        " it would be half."
    )
    for user in USERS:
        if variant(user, "x", {"A": 0.2, "B": 0.8}) == "A":
            assert variant(user, "x", HALVES) == "A", f"{user} loses A when the share of A grows."
    here = "".join(variant(f"user-{number}", "x", HALVES) for number in range(100))
    command = [sys.executable, "-c", PROGRAM, variant.__code__.co_filename]
    environment = os.environ | {"PYTHONHASHSEED": "20"}
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert there.stdout.strip() == here, "Another process gives the same users other variants."
