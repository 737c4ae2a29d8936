"""Size of a regular expression once its counted repetitions are written out."""


def expanded_size(pattern: str) -> int:
    """About how many characters a regular expression has without counted repetitions.

    `(a{10}b){20}` is written out in 220. Of a pattern that is not valid it says something.
    """
    sizes = [0]  # of the groups that are open, the outermost first
    last, at = 0, 0  # the size of what a repetition would repeat
    while at < len(pattern):
        character = pattern[at]
        if character == "{" and (most := _largest_count(pattern, at)) is not None:
            sizes[-1] += last * (most - 1)
            last *= most
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


def _largest_count(pattern: str, at: int) -> int | None:
    """The largest number in the repetition that begins here; None if none does."""
    inside = pattern[at + 1 : pattern.find("}", at)].replace(" ", "")
    counts = [count for count in inside.split(",") if count]
    if not counts or len(inside) > MAX_COUNT_LENGTH or not all(map(_is_number, counts)):
        return None
    return max(1, *map(int, counts))


MAX_COUNT_LENGTH = 40
"""A repetition is not longer; what is, the compiler refuses."""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _end_of_atom(pattern: str, at: int) -> int:
    """Where the character, escape or class that begins here ends."""
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] != "[":
        return at + 1
    at += 1
    for first in ("^", "]"):  # a bracket that comes first is a character
        at += pattern[at : at + 1] == first
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
