"""Counts the requests of each caller that are answered at the same time.

In a Redis that processes share, each such request has a lease: an entry in its caller's sorted set,
by the time at which it ends. A process renews the leases of what it answers every second, also of
what it took while Redis was gone; those of a process that was killed end by themselves.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from uuid import uuid4

from limits.storage import MemoryStorage, RedisStorage
from src.errors import RateLimitedError

LEASE_SECONDS = 10
NO_LIMIT = 10**9

TAKE = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
"""Takes leases that last ARGV[1] ms unless there are ARGV[2] already; by the clock of Redis."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A request that is being answered, and whose it is."""

    who: str
    id: str = field(default_factory=lambda: uuid4().hex)


class Concurrency:
    """Requests of all callers that are being answered.

    What asks the storage (`take`, `renew`, `release`) may run in any thread.

    Args:
        storage: where they are counted; a memory's are those of this process.
    """

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._held: dict[str, set[str]] = defaultdict(set)
        self._redis = storage if isinstance(storage, RedisStorage) else None
        if self._redis is not None:
            self._script = self._redis.get_connection().register_script(TAKE)

    def hold(self, lease: Lease) -> None:
        """The request is being answered from now on."""
        self._held[lease.who].add(lease.id)

    def let_go(self, lease: Lease) -> None:
        """The request is answered; `release` tells the others."""
        self._held[lease.who].discard(lease.id)
        if not self._held[lease.who]:
            del self._held[lease.who]

    def take(self, lease: Lease, most: int) -> None:
        """Asks for one more.

        Raises:
            RateLimitedError: there are as many as may be.
        """
        if self._redis is None:
            is_free = len(self._held.get(lease.who, ())) < most
        else:
            is_free = self._run(lease.who, most, lease.id)
        if not is_free:
            raise RateLimitedError("concurrent", most, None, 0, 1)

    def renew(self) -> None:
        """Lets all leases of this process last on, and those that Redis has lost be there again."""
        for who, ids in [(who, set(ids)) for who, ids in list(self._held.items())]:
            self._run(who, NO_LIMIT, *ids)
            for ended in ids - self._held.get(who, set()):  # while that was said
                self.release(Lease(who, ended))

    def release(self, lease: Lease) -> None:
        """Ends a lease in Redis before its time, unless its request is being answered."""
        is_held = lease.id in self._held.get(lease.who, ())
        if self._redis is not None and not is_held:
            self._redis.storage.zrem(self._key(lease.who), lease.id)

    def _run(self, who: str, most: int, *ids: str) -> bool:
        return bool(self._script(keys=[self._key(who)], args=[1000 * LEASE_SECONDS, most, *ids]))

    def _key(self, who: str) -> str:
        assert self._redis is not None
        return self._redis.prefixed_key(f"concurrent/{who}")
