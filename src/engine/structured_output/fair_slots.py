"""A semaphore for which tenants take turns in waiting, by round robin."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class FairSlots:
    """Hands out a number of slots; a tenant that waits with many does not delay one with few.

    Args:
        num_slots: at a time.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_free = num_slots
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def take(self, tenant: str, deadline: float) -> AsyncGenerator[None]:
        """Holds a slot.

        Args:
            tenant: whose turn it is.
            deadline: on the event loop's clock.

        Raises:
            TimeoutError: there was none until then.
        """
        async with asyncio.timeout_at(deadline):
            await self._acquire(tenant)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, tenant: str) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot came at the same moment
                self._release()
            raise

    def _release(self) -> None:
        """Hands a slot to the first tenant in line, which then goes to its end."""
        while self._waiting:
            tenant, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            if not turns:
                del self._waiting[tenant]
            if not turn.cancelled():
                turn.set_result(None)
                if turns:
                    self._waiting.move_to_end(tenant)
                return
        self._num_free += 1
