"""Depth of a graph of references: how far a recursive compiler descends."""

from collections.abc import Iterable, Mapping

MAX_REFERENCE_DEPTH = 500
"""References that may follow one another. At some thousands the compiler overflows its stack."""


def reference_depth(references: Mapping[str, Iterable[str]], start: str) -> int:
    """Returns the largest depth of a depth-first search that visits each name once.

    Args:
        references: for each name the names that it refers to; others lead nowhere.
        start: where the search begins.
    """
    seen = {start}
    stack = [iter(references.get(start, ()))]
    deepest = 1
    while stack:
        name = next(stack[-1], None)
        if name is None:
            stack.pop()
        elif name not in seen:
            seen.add(name)
            stack.append(iter(references.get(name, ())))
            deepest = max(deepest, len(stack))
    return deepest
