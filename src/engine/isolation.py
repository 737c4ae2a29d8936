"""Fault isolation: an exception in work for one request fails that request alone.

All work for a single sequence runs in `attempt`, the only place that catches its exceptions. An
exception elsewhere cannot be attributed to a request, and ends the engine.
"""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from src.engine.request import FinishReason, Request
from src.engine.structured_output.source import DeadEndError

T = TypeVar("T")

logger = logging.getLogger(__name__)

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


def log_failure(request: Request) -> FinishReason:
    """Logs the exception that is being handled; returns the reason of the request's end.

    A client causes dead ends as it likes, so they have no traceback.
    """
    error, extra = sys.exception(), {"request": request.request_id}
    if isinstance(error, DeadEndError):
        logger.warning("the request's grammar leads to a dead end: %s", error, extra=extra)
        return FinishReason.DEAD_END
    logger.exception("request failed", extra=extra)
    return FinishReason.ERROR
