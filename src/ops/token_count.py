"""Counts tokens over a period, with two numbers for each caller however many tokens there are.

Time is cut into periods. What was taken lately is what this period has, and of the period before
the share that is less than a period ago: as if it had been taken evenly.
"""

import time
from dataclasses import dataclass, replace

from limits.storage import MemoryStorage, RedisStorage

from src.errors import RateLimitedError


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens that were taken.

    Args:
        who: whose.
        period: number of the period in which they were.
        num_tokens: how many.
        left: how many more there were.
    """

    who: str
    period: int
    num_tokens: int
    left: int = 0


class TokenCount:
    """Tokens of all callers.

    Args:
        storage: where the numbers are.
        seconds: length of a period.
    """

    def __init__(self, storage: MemoryStorage | RedisStorage, seconds: int) -> None:
        self._storage = storage
        self._seconds = seconds

    def reserve(self, who: str, num_tokens: int, quota: int) -> Reservation:
        """Takes tokens.

        Raises:
            RateLimitedError: so many are not left; none are taken then.
        """
        period, passed = divmod(time.time() / self._seconds, 1)
        reservation = Reservation(who, int(period), num_tokens)
        key = self._key(who, int(period))
        now = self._storage.incr(key, 2 * self._seconds, num_tokens)
        before = self._storage.get(self._key(who, int(period) - 1))
        left = int(quota - now - before * (1 - passed))
        if now + before * (1 - passed) <= quota:
            return replace(reservation, left=left)
        self.give_back(reservation, num_tokens)
        now -= num_tokens
        left = max(0, int(quota - now - before * (1 - passed)))
        wait = _wait(quota - num_tokens, now, before, passed) * self._seconds
        raise RateLimitedError("tokens", quota, self._seconds, left, wait)

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives back some of what was taken, unless it is too long ago to count."""
        if reservation.period >= int(time.time() / self._seconds) - 1:
            key = self._key(reservation.who, reservation.period)
            self._storage.incr(key, 2 * self._seconds, -num_tokens)

    def _key(self, who: str, period: int) -> str:
        return f"tokens/{who}/{self._seconds}/{period}"


def _wait(room: int, now: int, before: int, passed: float) -> float:
    """How many periods until no more than `room` counts, if nothing else is taken meanwhile."""
    if now <= room:  # what is left of the period before has to go
        return 1 - (room - now) / max(1, before) - passed
    return 1 - passed + 1 - room / now
