"""Sizes of regular expressions with repetitions expanded."""

import pytest

from src.engine.structured_output.checks.regex_size import expanded_size


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a{10}", 10),
        ("a{2,10}b", 11),
        ("a{2,}", 2),
        ("(a{10}b){20}", 220),
        ("((a{10}){10}){10}", 1000),
        ("[a-z]{5}", 5),
        ("[]a]{5}", 5),
        ("[^]a]{5}", 5),
        (r"[\]{9}]{5}", 5),
        (r"\d{5}", 5),
        (r"\{5}", 3),
        ("a{x}", 4),
        ("a{", 2),
        ("a{}", 3),
        ("{7}", 0),
        (")a{3}", 4),
        ("(a{3}", 3),
        ("a{0}", 1),
        ("a\\", 2),
    ],
)
def test_repetitions_multiply_the_size(pattern, size):
    assert expanded_size(pattern) == size


def test_a_count_of_many_digits_is_left_to_the_compiler():
    assert expanded_size("a{" + "9" * 5000 + "}") == 5003
