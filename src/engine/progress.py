"""Log lines about the phases of loading a model."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

INTERVAL = 3
"""Seconds between two lines about one phase."""

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


class Phase:
    """A phase in progress; a long one logs a line from time to time.

    Args:
        name: of what is done, as in "loading weights".
        total: bytes to process; 0 if that is not known.
    """

    def __init__(self, name: str, total: int = 0) -> None:
        self.name = name
        self.num_bytes = 0
        self._total = total
        self._started_at = self._logged_at = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started_at

    def add(self, num_bytes: int) -> None:
        """Counts bytes as processed; also called by several threads, so the sum is a guide."""
        self.num_bytes += num_bytes
        if time.monotonic() - self._logged_at >= INTERVAL:
            self._logged_at = time.monotonic()
            of_total = f" of {format_bytes(self._total)}" if self._total else ""
            done = format_bytes(self.num_bytes)
            logger.info("%s: %s%s after %.0f s", self.name, done, of_total, self.seconds)


@contextmanager
def log_phase(name: str, total: int = 0) -> Iterator[Phase]:
    """Logs a phase's bytes and seconds at its end, unless it raises."""
    phase = Phase(name, total)
    yield phase
    size = f"{format_bytes(phase.num_bytes)} in " if phase.num_bytes else ""
    logger.info("%s: %s%.2f s", name, size, phase.seconds)


def format_bytes(num_bytes: int) -> str:
    """Returns a number of bytes in the largest unit that it fills."""
    for size, unit in UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"
