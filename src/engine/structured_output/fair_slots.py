"""Fair semaphore: tenants that wait for a slot get one in round-robin order."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class FairSlots:
    """Semaphore with a queue per tenant; many waiters of one tenant do not delay another tenant.

    Args:
        num_slots: number of slots.
        max_per_tenant: slots that one tenant may hold; None for all.
    """

    def __init__(self, num_slots: int, max_per_tenant: int | None = None) -> None:
        self._num_free = num_slots
        self._max_per_tenant = max_per_tenant or num_slots
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, tenant: str, deadline: float) -> AbstractContextManager[None]:
        """Waits for a slot; returns a context that releases it on exit.

        Args:
            tenant: owner of the request.
            deadline: end of the wait, on the event loop's clock.

        Raises:
            TimeoutError: no slot was free before the deadline.
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

    def _may_acquire(self, tenant: str) -> bool:
        return self._num_free > 0 and self._held[tenant] < self._max_per_tenant

    async def _acquire(self, tenant: str) -> None:
        if self._may_acquire(tenant):
            self._take(tenant)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it got the slot at the same moment
                self._release(tenant)
            raise

    def _take(self, tenant: str) -> None:
        self._num_free -= 1
        self._held[tenant] += 1

    def _release(self, tenant: str) -> None:
        """Returns a slot and passes it to the first waiting tenant below its limit."""
        self._num_free += 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        for other in list(self._waiting):
            if self._may_acquire(other) and self._wake(other):
                return

    def _wake(self, tenant: str) -> bool:
        """Gives a slot to a tenant's first waiter and moves the tenant to the end of the line.

        Returns:
            False if all waiters of the tenant have left.
        """
        turns = self._waiting[tenant]
        while turns:
            turn = turns.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._take(tenant)
                break
        else:
            del self._waiting[tenant]
            return False
        self._waiting.move_to_end(tenant)
        if not turns:
            del self._waiting[tenant]
        return True
