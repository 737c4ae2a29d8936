"""Fair semaphore: turns of tenants, limits of a tenant, and waiters that leave."""

import asyncio

import pytest

from src.engine.structured_output.fair_slots import FairSlots


def test_tenants_get_slots_in_turn():
    async def test() -> None:
        slots = FairSlots(1)
        order: list[str] = []

        async def work(tenant: str) -> None:
            with await slots.acquire(tenant, asyncio.get_running_loop().time() + 60):
                order.append(tenant)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work(tenant)) for tenant in "aaaabbc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert order == ["a", "a", "b", "c", "a", "b"]
        with await slots.acquire("a", asyncio.get_running_loop().time() + 5):
            pass

    asyncio.run(test())


def test_a_cancelled_waiter_takes_no_slot():
    async def test() -> None:
        slots = FairSlots(1)
        loop = asyncio.get_running_loop()
        with await slots.acquire("a", loop.time() + 60), pytest.raises(TimeoutError):
            await slots.acquire("b", loop.time() + 0.01)
        with await slots.acquire("c", loop.time() + 5):
            pass

    asyncio.run(test())


def test_a_tenant_at_its_limit_does_not_block_the_next_tenant():
    async def test() -> None:
        slots = FairSlots(2, max_per_tenant=1)
        deadline = asyncio.get_running_loop().time() + 5
        with await slots.acquire("a", deadline):
            waiting = asyncio.create_task(slots.acquire("a", deadline))
            with await slots.acquire("b", deadline):
                await asyncio.sleep(0)
                assert not waiting.done()
            assert not waiting.done()
        with await waiting:
            pass

    asyncio.run(test())
