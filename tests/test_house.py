"""The numbers of the house do not get worse: `make house` prints them."""

import pytest

from tests.support.house import FOLDERS, numbers, problems, python_files

LIMITS = {
    "most modules in a room": 16,
    "lines of the longest module": 424,
    "lines of a function, 90th percentile": 19,
    "lines of the longest function": 50,
    "lines of the core path": 4678,
}
"""Lower a limit when its number has become smaller; raise none without a reason in the commit."""


def test_no_number_is_above_its_limit():
    measured = numbers()
    assert {name: measured[name] for name in LIMITS if measured[name] > LIMITS[name]} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_language_is_plain(folder):
    assert [str(problem) for path in python_files(folder) for problem in problems(path)] == []
