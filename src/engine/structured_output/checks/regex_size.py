"""Size of a regular expression with its counted repetitions expanded."""

MAX_COUNT_LENGTH = 40
"""Limit on the characters between a repetition's braces; the compiler refuses longer ones."""

MAX_SIZE = 10**12
"""Cap on the size."""


def expanded_size(pattern: str) -> int:
    """Returns the approximate number of characters of a pattern with its repetitions expanded.

    `(a{10}b){20}` has 220. An invalid pattern has some size, too. Takes linear time.
    """
    sizes = [0]  # of the open groups, the outermost first
    last, at = 0, 0  # size of the last atom or group, which a repetition would repeat
    while at < len(pattern):
        character = pattern[at]
        if character == "{" and (max_count := _max_count(pattern, at)) is not None:
            sizes[-1] = min(sizes[-1] + last * (max_count - 1), MAX_SIZE)
            last = min(last * max_count, MAX_SIZE)
            at = pattern.index("}", at) + 1
            continue
        if character == "(":
            sizes.append(0)
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
        at = _end_of_atom(pattern, at)
    return sum(sizes)


def _max_count(pattern: str, at: int) -> int | None:
    """Returns the largest number of the repetition at `at`; None if there is no repetition."""
    end = pattern.find("}", at, at + MAX_COUNT_LENGTH + 2)
    counts = [count for count in pattern[at + 1 : end].replace(" ", "").split(",") if count]
    if end < 0 or not counts or not all(map(_is_number, counts)):
        return None
    return max(1, *map(int, counts))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _end_of_atom(pattern: str, at: int) -> int:
    """Returns the end of the character, escape or class at `at`."""
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] != "[":
        return at + 1
    at += 1
    for first in ("^", "]"):  # a leading bracket is a character
        at += pattern[at : at + 1] == first
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
