"""Fault isolation: an exception in work for one request fails that request alone.

All work for a single sequence runs in `attempt`, the only place that catches its exceptions. An
exception elsewhere cannot be attributed to a request, and ends the engine.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PANIC = "PanicException"
"""Class name of panics in libraries written in Rust; they do not derive from `Exception`."""


def is_containable(error: BaseException) -> bool:
    """Returns True if an error may fail a request alone; others, as SystemExit, end the thread."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC


def attempt(work: Callable[[], T], fail: Callable[[], None]) -> T | None:
    """Returns the result of `work`; if it raises, calls `fail` and returns None.

    Args:
        work: for one sequence.
        fail: ends the sequence. It is called inside the exception handler, so that it can log the
            exception, and must not raise.
    """
    try:
        return work()
    except BaseException as error:
        if not is_containable(error):
            raise
        fail()
        return None
