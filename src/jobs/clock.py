"""Wall-clock time that does not jump while the process runs."""

import sys
import time


class Clock:
    """Unix time at the process's start, moved on by a monotonic clock.

    A wall clock that is set by hours must neither expire files nor end leases. So a change of it
    takes effect at the next start only.
    """

    def __init__(self) -> None:
        self._start = time.time() - _monotonic()

    def now(self) -> float:
        """Returns the Unix time in seconds."""
        return self._start + _monotonic()


def _monotonic() -> float:
    """Returns seconds of a clock that also counts while the machine sleeps, where there is one."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
