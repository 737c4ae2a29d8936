"""Exercise 11: a rate limit without edges."""


class MovingWindow:
    """Limits a client's requests within any period of a length.

    Args:
        limit: number of requests that are admitted within a period.
        period: length of the period in seconds.
    """

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period

    def hit(self, now: float) -> float:
        """Counts a request, or refuses it. Refused requests do not count.

        A request at second 10 with a period of 60 counts until second 70, when it no longer does.

        Args:
            now: time in seconds, never before that of an earlier call.

        Returns:
            0 if the request is admitted, else the seconds until one would be.
        """
        raise NotImplementedError
