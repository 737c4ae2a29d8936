"""Exercise 12: a circuit breaker."""


class CircuitBreaker:
    """Stops calls to a service that fails.

    - Closed, as at first: calls are allowed. `max_failures` failures in a row open it.
    - Open: no call is allowed for `pause` seconds.
    - Half-open, after that: one call is allowed as a trial. Others are not until its result is
      there. If it succeeds the breaker closes; if it fails it is open for another `pause`.

    Args:
        max_failures: number of failures in a row that open it.
        pause: seconds without any call.
    """

    def __init__(self, max_failures: int, pause: float) -> None:
        self.max_failures = max_failures
        self.pause = pause

    def allows(self, now: float) -> bool:
        """Returns True if a call may be made at a time, in seconds; the caller then makes it."""
        raise NotImplementedError

    def record(self, now: float, *, is_success: bool) -> None:
        """Takes the result of a call that was allowed."""
        raise NotImplementedError
