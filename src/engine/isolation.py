"""Fault isolation: what one request makes raise fails that request alone.

All work that is done for a single sequence runs in `attempt`, which is the only place that catches
its exceptions. What raises elsewhere has no culprit that is known, and ends the engine.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PANIC = "PanicException"
"""How libraries written in Rust name their panics, which are no `Exception`."""


def is_containable(error: BaseException) -> bool:
    """Whether an error may fail a request alone; others, as SystemExit, end the thread."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC


def attempt(work: Callable[[], T], fail: Callable[[], None]) -> T | None:
    """Returns what `work` returns; where it raises `fail` is called, and None returned.

    Args:
        work: what is done for one sequence.
        fail: takes the sequence out. It is called while the exception is handled, so that it can
            log it, and must not raise.
    """
    try:
        return work()
    except BaseException as error:
        if not is_containable(error):
            raise
        fail()
        return None
