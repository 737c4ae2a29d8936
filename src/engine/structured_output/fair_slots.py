"""A semaphore for which tenants take turns in waiting, by round robin."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class FairSlots:
    """Hands out a number of slots; a tenant that waits with many does not delay one with few.

    Args:
        num_slots: at a time.
        max_per_tenant: slots that one tenant has at a time; None is all.
    """

    def __init__(self, num_slots: int, max_per_tenant: int | None = None) -> None:
        self._num_free = num_slots
        self._max_per_tenant = max_per_tenant or num_slots
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, tenant: str, deadline: float) -> AbstractContextManager[None]:
        """Waits for a slot; returns the context in which it is held.

        Args:
            tenant: whose turn it is.
            deadline: on the event loop's clock.

        Raises:
            TimeoutError: there was none until then.
        """
        async with asyncio.timeout_at(deadline):
            await self._acquire(tenant)
        return self._hold(tenant)

    @contextmanager
    def _hold(self, tenant: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._release(tenant)

    def _may_have_one(self, tenant: str) -> bool:
        return self._num_free > 0 and self._held[tenant] < self._max_per_tenant

    async def _acquire(self, tenant: str) -> None:
        if self._may_have_one(tenant):
            self._num_free -= 1
            self._held[tenant] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot came at the same moment
                self._release(tenant)
            raise

    def _release(self, tenant: str) -> None:
        """Takes a slot back, and hands it to the first tenant in line that may have one."""
        self._num_free += 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        for other in list(self._waiting):
            if self._may_have_one(other) and self._wake(other):
                return

    def _wake(self, tenant: str) -> bool:
        """Hands a slot to a tenant, which then goes to the end of the line; False if all left."""
        turns = self._waiting[tenant]
        while turns:
            turn = turns.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._num_free -= 1
                self._held[tenant] += 1
                break
        else:
            del self._waiting[tenant]
            return False
        self._waiting.move_to_end(tenant)
        if not turns:
            del self._waiting[tenant]
        return True
