"""Tokens and leases that a slow Redis took for a request that did not wait are given back."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import redis
import uvloop

from src.limits.rate_limit import RateLimit
from src.limits.storage import ANSWER_SECONDS, WaitBudget
from src.limits.token_quota import Reservation
from src.observability.http_metrics import HttpMetrics
from tests.conftest import create_settings, wait_until
from tests.limits.test_storage import is_up
from tests.support.redis_server import Redis, RedisProxy

BODY = {"prompt": "the", "max_length": 9}


def taken(storage: Redis, kind: str = "tokens") -> list[int]:
    """Returns the counters of tokens in Redis, or the numbers of leases."""
    with redis.Redis(port=storage.port) as client:
        keys = client.keys(f"LIMITS:{kind}/*")
        return [client.zcard(key) if kind == "concurrent" else int(client.get(key)) for key in keys]


def num_reservations(storage: Redis) -> int:
    with redis.Redis(port=storage.port) as client:
        return sum(client.get(key) != b"0" for key in client.keys("LIMITS:reservation/*"))


@pytest.fixture
def run(storage: Redis, redis_proxy: RedisProxy):
    """Runs a scenario with limits in Redis, and with the task that watches over it."""

    def run(scenario: Callable[[RateLimit], Coroutine[None, None, None]]) -> None:
        async def run_watched() -> None:
            async with watched(redis_proxy.url) as limits:
                await scenario(limits)

        asyncio.run(run_watched())

    return run


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[RateLimit]:
    settings = create_settings(rate_limit_storage=url, rate_limit_period=3600)
    limits = RateLimit(settings, HttpMetrics().limit_storage_up)
    watching = asyncio.create_task(limits.watch())
    try:
        yield limits
    finally:
        watching.cancel()
        await limits.close()


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def reserve(limits: RateLimit, num_tokens: int, key: str = "a") -> Reservation | None:
    return await limits.reserve_tokens(key, num_tokens, 100, WaitBudget())


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_gives_back_tokens_that_were_taken_too_late(
    start_replica, storage, redis_proxy, policy, status_code
):
    settings = {"rate_limit_storage": redis_proxy.url, "rate_limit_storage_failure": policy}
    client = start_replica(rate_limit_tokens=100, rate_limit_period=3600, **settings)
    for _ in range(10):  # on a busy machine a request may have no time left for Redis
        answer = client.post("/generate", json=BODY)
        if answer.status_code == 200 and taken(storage) not in ([], [0]):
            break
        wait_until(lambda: is_up(client))
    used = answer.json()["generated"][0]["tokens"]
    wait_until(lambda: taken(storage) == [1 + used])
    redis_proxy.delayed, redis_proxy.commands = b"tokens/", b""
    redis_proxy.delay = 2 * ANSWER_SECONDS
    assert client.post("/generate", json=BODY).status_code == status_code
    wait_until(
        lambda: redis_proxy.commands.count(b"tokens/") >= 3
    )  # two periods to take, one to give back, again while its answer is late
    wait_until(lambda: taken(storage) == [1 + used])
    redis_proxy.delay = 0
    wait_until(lambda: is_up(client))
    assert client.post("/generate", json=BODY).status_code == 200


@pytest.mark.parametrize("kind", ["tokens", "concurrent"])
def test_gives_back_what_was_taken_for_a_client_that_left(run, storage, redis_proxy, kind):
    before = {"tokens": [20], "concurrent": [2]}[kind]
    after = {"tokens": [10], "concurrent": [1]}[kind]

    async def scenario(limits: RateLimit) -> None:
        await reserve(limits, 10)  # scripts are known, connections open
        await limits.start("a", 5, WaitBudget())
        redis_proxy.delay = ANSWER_SECONDS / 2
        take = reserve(limits, 10) if kind == "tokens" else limits.start("a", 5, WaitBudget())
        asked = asyncio.create_task(take)
        await asyncio.sleep(ANSWER_SECONDS / 4)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
        assert taken(storage, kind) in (before, after)
        await until(lambda: taken(storage, kind) == after)

    run(scenario)


@pytest.mark.parametrize("is_lost", [False, True])
def test_gives_back_after_redis_was_gone(run, storage, redis_proxy, is_lost):
    async def scenario(limits: RateLimit) -> None:
        reservation = await reserve(limits, 40)
        redis_proxy.delay = None
        assert await reserve(limits, 1, "b") is None
        limits.give_back_tokens(reservation, 30)
        assert 40 in taken(storage)
        if is_lost:  # nothing is there to be given back, and no quota grows
            storage.stop()
            storage.start()
        redis_proxy.delay = 0
        if is_lost:
            await until(lambda: limits._storage.is_up)
            await asyncio.sleep(ANSWER_SECONDS)
            assert taken(storage) == []
        else:
            await until(lambda: sorted(taken(storage)) == [0, 10])

    run(scenario)


def test_gives_back_a_reservation_once(run, storage):
    async def scenario(limits: RateLimit) -> None:
        reservation = await reserve(limits, 40)
        await reserve(limits, 40)
        assert num_reservations(storage) == 2
        limits.give_back_tokens(reservation, 30)
        limits.give_back_tokens(reservation, 30)
        await until(lambda: num_reservations(storage) == 1)
        await asyncio.sleep(ANSWER_SECONDS)
        assert taken(storage) == [50]

    run(scenario)


def test_takes_nothing_for_a_reservation_that_was_given_back_before(run, storage):
    async def scenario(limits: RateLimit) -> None:
        counter = limits._tokens._counter
        reservation = Reservation("a", 10, period=5)
        await counter._send_back(reservation, 10)
        await counter.take(reservation, 1.0, 100, WaitBudget())
        assert taken(storage) == []

    run(scenario)


def test_takes_tokens_once_where_a_command_arrives_twice(run, storage):
    async def scenario(limits: RateLimit) -> None:
        counter = limits._tokens._counter
        reservation = Reservation("a", 10, period=5)
        windows = [await counter.take(reservation, 1.0, 100, WaitBudget()) for _ in range(2)]
        assert windows[0] == windows[1]
        assert taken(storage) == [10]

    run(scenario)


def test_a_reservation_leaves_nothing_behind(run, storage):
    async def scenario(limits: RateLimit) -> None:
        limits.give_back_tokens(await reserve(limits, 10), 0)
        await until(lambda: num_reservations(storage) == 0)
        with redis.Redis(port=storage.port) as client:
            assert client.keys("LIMITS:reservation/*") == []
        assert taken(storage) == [10]

    run(scenario)


def test_sends_a_command_without_an_answer_once(run, redis_proxy):
    async def scenario(limits: RateLimit) -> None:
        await reserve(limits, 10)
        redis_proxy.delay, redis_proxy.commands = None, b""
        assert await reserve(limits, 10) is None
        take = limits._tokens._counter._take.sha.encode()
        assert redis_proxy.commands.count(take) == 1

    run(scenario)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_reads_an_answer_that_came_while_the_event_loop_was_busy(redis_proxy, new_loop):
    async def scenario() -> None:
        async with watched(redis_proxy.url) as limits:
            await reserve(limits, 10)
            redis_proxy.delay, redis_proxy.commands = ANSWER_SECONDS / 4, b""
            asked = asyncio.create_task(reserve(limits, 10))
            await until(lambda: b"tokens/" in redis_proxy.commands)
            time.sleep(2 * ANSWER_SECONDS)  # noqa: ASYNC251 - holds the loop
            assert await asked is not None

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def test_cancelled_requests_and_an_outage_lose_no_token_and_leave_no_lease(run, storage):
    reservations: list[Reservation] = []

    async def serve(limits: RateLimit) -> None:
        budget = WaitBudget()
        lease = await limits.start("a", 10**6, budget)
        try:
            reservation = await limits.reserve_tokens("a", 10, 10**6, budget)
            if reservation is not None:
                reservations.append(reservation)
                limits.give_back_tokens(reservation, 4)
        finally:
            limits.end(lease)

    async def scenario(limits: RateLimit) -> None:
        for is_outage in (False, True, False):
            if is_outage:
                storage.signal(signal.SIGSTOP)
            requests = [asyncio.create_task(serve(limits)) for _ in range(200)]
            await asyncio.sleep(ANSWER_SECONDS / 10)
            for request in requests[::3]:
                request.cancel()
            await asyncio.wait(requests)
            storage.signal(signal.SIGCONT)
            await until(lambda: limits._storage.is_up)
        await until(lambda: sum(taken(storage)) == 6 * len(reservations))
        await until(lambda: taken(storage, "concurrent") == [])
        assert num_reservations(storage) == 0

    run(scenario)
