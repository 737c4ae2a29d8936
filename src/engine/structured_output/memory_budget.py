"""Memory budget of all grammar processes together."""

import threading

PROCESS_SHARE = 4
"""One process may take 1 / PROCESS_SHARE of the budget."""


class MemoryBudget:
    """Records the memory of each grammar process and compares the sum with a limit. Thread-safe.

    Args:
        max_bytes: limit on the memory of all processes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        # Reentrant, as the garbage collector may end a process, and so call `give_back`, while
        # this thread holds the lock.
        self._lock = threading.RLock()
        self._num_bytes: dict[int, int] = {}  # by owner

    @property
    def num_taken(self) -> int:
        """Bytes that all processes take now."""
        with self._lock:
            return sum(self._num_bytes.values())

    @property
    def max_process_bytes(self) -> int:
        """Limit on the memory of one process."""
        return self.max_bytes // PROCESS_SHARE

    @property
    def is_low(self) -> bool:
        """True if another process could exceed the budget."""
        return self.num_taken > self.max_bytes - self.max_process_bytes

    @property
    def largest(self) -> int | None:
        """Owner of the most memory; None without processes."""
        with self._lock:
            return max(self._num_bytes, key=self._num_bytes.__getitem__, default=None)

    def take(self, owner: int, num_bytes: int) -> bool:
        """Records the memory of a process.

        Returns:
            False if the budget is exceeded and this process is the largest.
        """
        with self._lock:
            self._num_bytes[owner] = num_bytes
            sizes = self._num_bytes.values()
            return sum(sizes) <= self.max_bytes or num_bytes < max(sizes)

    def give_back(self, owner: int) -> None:
        """Removes a process that has ended."""
        with self._lock:
            self._num_bytes.pop(owner, None)
