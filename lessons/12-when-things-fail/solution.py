"""An answer to exercise 12."""


class CircuitBreaker:
    """Stops calls to a service that fails."""

    def __init__(self, max_failures: int, pause: float) -> None:
        self.max_failures = max_failures
        self.pause = pause
        self.num_failures = 0
        self.opened: float | None = None
        self.is_trying = False

    def allows(self, now: float) -> bool:
        """Returns True if a call may be made at a time, in seconds; the caller then makes it."""
        if self.opened is None:
            return True
        if self.is_trying or now < self.opened + self.pause:
            return False
        self.is_trying = True
        return True

    def record(self, now: float, *, is_success: bool) -> None:
        """Takes the result of a call that was allowed."""
        if is_success:
            self.num_failures, self.opened = 0, None
        else:
            self.num_failures += 1
            if self.is_trying or self.num_failures >= self.max_failures:
                self.opened = now
        self.is_trying = False
