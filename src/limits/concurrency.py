"""Limit on the requests of each key that run at the same time.

In a Redis that replicas share, a running request has a lease: an entry in its key's sorted set,
scored by the time of its end. Each process renews the leases of its running requests every second,
also of those that were let through while Redis was gone. Leases of a process that was killed
end by themselves.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import uuid4

from redis.exceptions import ResponseError

from src.errors import LimitStorageDownError, RateLimitedError
from src.limits.storage import PREFIX, Command, SharedStorage, WaitBudget

LEASE_SECONDS = 10
NO_LIMIT = 10**9

TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
"""Takes or renews leases, unless there are too many; by the clock of Redis.

KEYS: the sorted set. ARGV: milliseconds that leases last, their maximum number, their ids.
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """Place of a running request among those of its rate-limit key."""

    key: str
    id: str = field(default_factory=lambda: uuid4().hex)


class Concurrency(Protocol):
    """Running requests of all keys."""

    async def start(self, lease: Lease, max_running: int, budget: WaitBudget) -> None:
        """Takes a lease.

        Raises:
            RateLimitedError: the maximum number of requests runs already.
            LimitStorageDownError: they cannot be counted.
        """

    def hold(self, lease: Lease) -> None:
        """Counts a running request, also one without a lease in Redis."""

    def end(self, lease: Lease) -> None:
        """Ends the lease of a running request."""

    async def renew(self) -> None:
        """Renews the leases of this process."""


class MemoryConcurrency:
    """Running requests of this process, counted in its memory."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = defaultdict(set)
        """Ids of the leases that run in this process, by rate-limit key."""

    async def start(self, lease: Lease, max_running: int, _: WaitBudget) -> None:
        """Takes a lease."""
        if len(self.held.get(lease.key, ())) >= max_running:
            raise RateLimitedError("concurrent", max_running, None, 0, 1)

    def hold(self, lease: Lease) -> None:
        """Counts a running request."""
        self.held[lease.key].add(lease.id)

    def end(self, lease: Lease) -> None:
        """Ends the lease of a running request."""
        self.held[lease.key].discard(lease.id)
        if not self.held[lease.key]:
            del self.held[lease.key]

    async def renew(self) -> None:
        """Does nothing: leases in memory last until they are ended."""


class RedisConcurrency:
    """Running requests of all processes, counted in Redis.

    Args:
        storage: the Redis.
    """

    def __init__(self, storage: SharedStorage) -> None:
        self._storage = storage
        self._script = storage.client.register_script(TAKE)
        self._local = MemoryConcurrency()

    async def start(self, lease: Lease, max_running: int, budget: WaitBudget) -> None:
        """Takes a lease.

        Raises:
            RateLimitedError: the maximum number of requests runs already.
            LimitStorageDownError: Redis does not answer.
        """
        take = self._take_command(lease.key, max_running, lease.id)
        is_free = await self._storage.run(take, budget, undo=self._release_command(lease))
        if not is_free:
            raise RateLimitedError("concurrent", max_running, None, 0, 1)

    def hold(self, lease: Lease) -> None:
        """Counts a running request, also one without a lease in Redis."""
        self._local.hold(lease)

    def end(self, lease: Lease) -> None:
        """Ends the lease of a running request."""
        self._local.end(lease)
        if self._storage.is_up:  # otherwise it ends by itself
            self._storage.post(self._release_command(lease))

    async def renew(self) -> None:
        """Renews the leases of this process, also those that Redis has lost.

        Raises:
            LimitStorageDownError: Redis does not answer.
        """
        for key, ids in [(key, set(ids)) for key, ids in self._local.held.items()]:
            try:
                await self._storage.run(self._take_command(key, NO_LIMIT, *ids), WaitBudget())
            except LimitStorageDownError as error:
                if not isinstance(error.__cause__, ResponseError):
                    raise
                continue  # an error reply concerns this key alone
            for ended in ids - self._local.held.get(key, set()):  # while the command ran
                self._storage.post(self._release_command(Lease(key, ended)))

    def _take_command(self, key: str, max_running: int, *ids: str) -> Command[bool]:
        return Command("concurrent", partial(self._take, key, max_running, *ids))

    def _release_command(self, lease: Lease) -> Command[None]:
        return Command("concurrent", partial(self._release, lease))

    async def _take(self, key: str, max_running: int, *ids: str) -> bool:
        arguments: list[str | int] = [1000 * LEASE_SECONDS, max_running, *ids]
        return bool(await self._script(keys=[_key(key)], args=arguments))

    async def _release(self, lease: Lease) -> None:
        """Ends a lease in Redis before its time, unless its request runs."""
        if lease.id not in self._local.held.get(lease.key, ()):
            await self._storage.client.zrem(_key(lease.key), lease.id)


def _key(key: str) -> str:
    return f"{PREFIX}concurrent/{key}"
