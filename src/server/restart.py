"""Exponential backoff of a worker's restarts.

The first death is followed by a restart at once. If replacements die early too, the delays are
1, 2, 4, ... seconds, up to 30. A worker that was ready for a minute resets them.
"""

import math
import time

MIN_SECONDS = 1.0
MAX_SECONDS = 30.0
STABLE_SECONDS = 60.0


class Restart:
    """Restart of one worker: its delay, and its time once the worker is dead.

    Args:
        delay: in seconds, unless the worker is stable before it dies.
    """

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay
        self._first_ready_at = math.inf
        self._due_at = math.inf
        self._is_stable = False

    def record_ready(self) -> None:
        """Records that the worker is ready at this time."""
        now = time.monotonic()
        self._first_ready_at = min(self._first_ready_at, now)
        self._is_stable = now - self._first_ready_at >= STABLE_SECONDS

    def schedule(self) -> None:
        """Sets the time of the restart: the worker is dead."""
        if self._is_stable:
            self.delay = 0
        self._due_at = time.monotonic() + self.delay

    @property
    def is_scheduled(self) -> bool:
        """The worker is dead."""
        return self._due_at < math.inf

    @property
    def is_due(self) -> bool:
        """The worker is dead, and the delay is over."""
        return time.monotonic() >= self._due_at

    def create_next(self) -> "Restart":
        """Returns the restart of the replacement, should it die early."""
        return Restart(min(max(2 * self.delay, MIN_SECONDS), MAX_SECONDS))
