"""Depth of a graph of references: the recursion depth of a compiler.

`schema_checks.py` refuses references without an end.
"""

from collections.abc import Iterable, Mapping

MAX_REFERENCE_DEPTH = 500
"""Limit on the depth of references; some thousands would overflow the compiler's stack."""


def reference_depth(references: Mapping[str, Iterable[str]], start: str) -> int:
    """Returns the largest depth of a depth-first search that visits each name once.

    Args:
        references: the names that each name refers to; a missing name refers to none.
        start: root of the search.
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
