"""Sliding-window counter of tokens: two numbers for each key, however many tokens there are.

Time is cut into periods. The window holds the tokens of this period and, of the previous one, the
share that the window still covers, as if its tokens were spread evenly:

    num_used = current + previous * (1 - elapsed part of this period)

`limits` has the same algorithm (`SlidingWindowCounterRateLimiter`) without a way to give tokens
back.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol
from uuid import uuid4

from limits.storage import Storage
from src.errors import RateLimitedError
from src.limits.storage import PREFIX, Command, SharedStorage, WaitBudget

ABANDONED_SECONDS = 60
"""Time for which a reservation stays marked as abandoned: no command is on its way for longer."""

TAKE = """
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
local previous = tonumber(redis.call('GET', KEYS[2]) or '0')
local reserved = redis.call('GET', KEYS[3])
if reserved then return {current - reserved, previous} end
if math.floor(ARGV[3] - current - previous * ARGV[2]) >= tonumber(ARGV[1]) then
    redis.call('INCRBY', KEYS[1], ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[4])
    redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[4])
end
return {current, previous}
"""
"""Takes tokens and records the reservation, once, if the quota allows it.

KEYS: counters of this and of the previous period, the reservation. ARGV: tokens, share of the
previous period, quota, seconds to keep all of it. Returns both counters before.
"""

GIVE_BACK = """
local reserved = tonumber(redis.call('GET', KEYS[2]) or '0')
if reserved == 0 then
    redis.call('SET', KEYS[2], 0, 'EX', ARGV[2])
    return
end
redis.call('DEL', KEYS[2])
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
redis.call('DECRBY', KEYS[1], math.min(current, reserved, tonumber(ARGV[1])))
"""
"""Gives unused tokens of a reservation back, once.

KEYS: counter of its period, the reservation. ARGV: tokens, ABANDONED_SECONDS. A reservation unknown
to Redis was given back before, was lost with its counter, or is still on its way. It is marked as
abandoned, so that no tokens are taken for it later.
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens taken from a quota.

    Args:
        key: rate-limit key of the quota.
        num_tokens: taken.
        period: number of the period since the epoch.
        num_left: tokens left in the window afterwards.
        id: makes taking and giving back idempotent.
    """

    key: str
    num_tokens: int
    period: int
    num_left: int = 0
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that were taken before.

    Args:
        current: in this period.
        previous: in the period before.
    """

    current: int
    previous: int

    def num_left(self, quota: int, share: float) -> int:
        """Returns how much of a quota is left where this share of the previous period counts."""
        return int(quota - self.current - self.previous * share)

    def periods_until(self, max_used: int, elapsed: float) -> float:
        """Returns the number of periods until at most so much is used, if nothing is taken."""
        if self.current <= max_used:  # the previous period's share has to shrink
            return 1 - (max_used - self.current) / max(1, self.previous) - elapsed
        return 1 - elapsed + 1 - max_used / self.current


class TokenCounter(Protocol):
    """Tokens of all keys, by period."""

    async def take(
        self, reservation: Reservation, share: float, quota: int, budget: WaitBudget
    ) -> Window:
        """Takes tokens if the quota allows it; returns those taken before."""

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives unused tokens of a reservation back."""


class MemoryTokenCounter:
    """Tokens in this process's memory.

    Args:
        storage: of numbers that expire.
        seconds: length of a period.
    """

    def __init__(self, storage: Storage, seconds: int) -> None:
        self._storage = storage
        self._seconds = seconds

    async def take(
        self, reservation: Reservation, share: float, quota: int, _: WaitBudget
    ) -> Window:
        """Takes tokens if the quota allows it; returns those taken before."""
        current = self._key(reservation.key, reservation.period)
        previous = self._key(reservation.key, reservation.period - 1)
        window = Window(self._storage.get(current), self._storage.get(previous))
        if window.num_left(quota, share) >= reservation.num_tokens:
            self._storage.incr(current, 2 * self._seconds, reservation.num_tokens)
        return window

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives unused tokens of a reservation back."""
        if num_tokens:
            key = self._key(reservation.key, reservation.period)
            self._storage.incr(key, 2 * self._seconds, -num_tokens)

    def _key(self, key: str, period: int) -> str:
        return _counter_key(key, self._seconds, period)


class RedisTokenCounter:
    """Tokens in Redis, taken and given back by atomic scripts.

    Args:
        storage: the Redis.
        seconds: length of a period.
    """

    def __init__(self, storage: SharedStorage, seconds: int) -> None:
        self._storage = storage
        self._seconds = seconds
        self._take = storage.client.register_script(TAKE)
        self._give_back = storage.client.register_script(GIVE_BACK)

    async def take(
        self, reservation: Reservation, share: float, quota: int, budget: WaitBudget
    ) -> Window:
        """Takes tokens if the quota allows it; returns those taken before.

        Raises:
            LimitStorageDownError: Redis does not answer; tokens that it took are given back.
        """
        keys = [
            self._counter_key(reservation, reservation.period),
            self._counter_key(reservation, reservation.period - 1),
            _reservation_key(reservation),
        ]
        arguments = [reservation.num_tokens, share, quota, 2 * self._seconds]

        async def take() -> Window:
            current, previous = await self._take(keys=keys, args=arguments)
            return Window(int(current), int(previous))

        undo = self._give_back_command(reservation, reservation.num_tokens)
        return await self._storage.run(Command("tokens", take), budget, undo)

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives unused tokens of a reservation back, soon."""
        self._storage.post(self._give_back_command(reservation, num_tokens))

    def _give_back_command(self, reservation: Reservation, num_tokens: int) -> Command[None]:
        return Command("tokens", partial(self._send_back, reservation, num_tokens))

    async def _send_back(self, reservation: Reservation, num_tokens: int) -> None:
        keys = [
            self._counter_key(reservation, reservation.period),
            _reservation_key(reservation),
        ]
        await self._give_back(keys=keys, args=[num_tokens, ABANDONED_SECONDS])

    def _counter_key(self, reservation: Reservation, period: int) -> str:
        return PREFIX + _counter_key(reservation.key, self._seconds, period)


class TokenQuota:
    """Limit on the tokens of each key in a sliding window.

    Args:
        counter: of the tokens.
        seconds: length of the window.
    """

    def __init__(self, counter: TokenCounter, seconds: int) -> None:
        self._counter = counter
        self._seconds = seconds

    async def reserve(
        self, key: str, num_tokens: int, quota: int, budget: WaitBudget
    ) -> Reservation:
        """Takes tokens.

        Raises:
            RateLimitedError: fewer are left; none are taken.
            LimitStorageDownError: they cannot be counted.
        """
        position, elapsed = divmod(time.time() / self._seconds, 1)
        reservation = Reservation(key, num_tokens, int(position))
        window = await self._counter.take(reservation, 1 - elapsed, quota, budget)
        num_left = window.num_left(quota, 1 - elapsed)
        if num_left >= num_tokens:
            return replace(reservation, num_left=num_left - num_tokens)
        wait = window.periods_until(quota - num_tokens, elapsed) * self._seconds
        raise RateLimitedError("tokens", quota, self._seconds, max(0, num_left), wait)

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        """Gives unused tokens back, unless their period is too long ago to count."""
        if reservation.period >= int(time.time() / self._seconds) - 1:
            self._counter.give_back(reservation, num_tokens)


def _counter_key(key: str, seconds: int, period: int) -> str:
    return f"tokens/{key}/{seconds}/{period}"


def _reservation_key(reservation: Reservation) -> str:
    return f"{PREFIX}reservation/{reservation.id}"
