"""An answer to exercise 11."""

from collections import deque


class MovingWindow:
    """Limits a client's requests within any period of a length."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self.admitted: deque[float] = deque()

    def hit(self, now: float) -> float:
        """Returns 0 if the request is admitted, else the seconds until one would be."""
        while self.admitted and self.admitted[0] + self.period <= now:
            self.admitted.popleft()
        if len(self.admitted) < self.limit:
            self.admitted.append(now)
            return 0
        return self.admitted[0] + self.period - now
