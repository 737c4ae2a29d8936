"""Counts tokens over a period, with two numbers for each caller however many tokens there are.

Time is cut into periods. What was taken lately is what this period has, and of the period before
the share that is less than a period ago: as if it had been taken evenly.

In Redis tokens are taken, and given back, by a script each: all at once or not at all.
"""

import time
from dataclasses import dataclass

from limits.storage import MemoryStorage, RedisStorage
from src.errors import RateLimitedError

TAKE = b"""
local now = tonumber(redis.call('GET', KEYS[1]) or '0')
local before = tonumber(redis.call('GET', KEYS[2]) or '0')
if math.floor(ARGV[3] - now - before * ARGV[2]) >= tonumber(ARGV[1]) then
    redis.call('INCRBY', KEYS[1], ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return {now, before}
"""
"""Takes ARGV[1] tokens in this period, if of ARGV[3] so many are left; returns what was taken in
this and the last one, of which the share ARGV[2] counts. The number lasts ARGV[4] seconds."""

GIVE_BACK = b"""
local now = tonumber(redis.call('GET', KEYS[1]) or '0')
if now > 0 then redis.call('DECRBY', KEYS[1], math.min(now, ARGV[1])) end
"""
"""Gives back ARGV[1] tokens; a Redis that has lost the number since has nothing to give back."""


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
        if isinstance(storage, RedisStorage):
            connection = storage.get_connection()
            self._take_script = connection.register_script(TAKE)
            self._give_back_script = connection.register_script(GIVE_BACK)

    def reserve(self, who: str, num_tokens: int, quota: int) -> Reservation:
        """Takes tokens.

        Raises:
            RateLimitedError: so many are not left; none are taken then.
        """
        position, passed = divmod(time.time() / self._seconds, 1)
        period, share = int(position), 1 - passed
        now, before = self._take(who, period, share, num_tokens, quota)
        left = int(quota - now - before * share)
        if left >= num_tokens:
            return Reservation(who, period, num_tokens, left - num_tokens)
        wait = _wait(quota - num_tokens, now, before, passed) * self._seconds
        raise RateLimitedError("tokens", quota, self._seconds, max(0, left), wait)

    def _take(
        self, who: str, period: int, share: float, num_tokens: int, quota: int
    ) -> tuple[int, int]:
        """Takes tokens if so many are left; returns what this period and the last one had."""
        keys = [self._key(who, period), self._key(who, period - 1)]
        if isinstance(self._storage, RedisStorage):
            arguments = [num_tokens, share, quota, 2 * self._seconds]
            now, before = self._take_script(self._prefixed(*keys), arguments)
            return int(now), int(before)
        now, before = (self._storage.get(key) for key in keys)
        if int(quota - now - before * share) >= num_tokens:
            self._storage.incr(keys[0], 2 * self._seconds, num_tokens)
        return now, before

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives back some of what was taken, unless it is too long ago to count."""
        if reservation.period < int(time.time() / self._seconds) - 1:
            return
        key = self._key(reservation.who, reservation.period)
        if isinstance(self._storage, RedisStorage):
            self._give_back_script(self._prefixed(key), [num_tokens])
        else:
            self._storage.incr(key, 2 * self._seconds, -num_tokens)

    def _prefixed(self, *keys: str) -> list[str]:
        assert isinstance(self._storage, RedisStorage)
        return [self._storage.prefixed_key(key) for key in keys]

    def _key(self, who: str, period: int) -> str:
        return f"tokens/{who}/{self._seconds}/{period}"


def _wait(room: int, now: int, before: int, passed: float) -> float:
    """How many periods until no more than `room` counts, if nothing else is taken meanwhile."""
    if now <= room:  # what is left of the period before has to go
        return 1 - (room - now) / max(1, before) - passed
    return 1 - passed + 1 - room / now
