"""What a slow Redis has counted for requests that did not wait for it is given back."""

import asyncio
from collections.abc import Callable

import pytest
import redis

from src.limits.rate_limit import RateLimit
from src.limits.storage import ANSWER_SECONDS
from src.limits.token_quota import Reservation
from src.observability.http_metrics import HttpMetrics
from tests.conftest import create_settings, wait_until
from tests.limits.test_storage import is_up
from tests.support.redis_server import Redis, Way

BODY = {"prompt": "the", "max_length": 9}


def taken(storage: Redis, kind: str = "tokens") -> list[int]:
    """The numbers of tokens that Redis has, or of leases."""
    with redis.Redis(port=storage.port) as client:
        keys = client.keys(f"LIMITS:{kind}/*")
        return [client.zcard(key) if kind == "concurrent" else int(client.get(key)) for key in keys]


@pytest.fixture
def limits(storage, way) -> RateLimit:
    settings = create_settings(rate_limit_storage=way.url, rate_limit_period=3600)
    return RateLimit(settings, HttpMetrics().limit_storage_up)


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_tokens_of_a_request_that_did_not_wait_for_them_are_given_back(
    start_replica, storage, way, policy, status_code
):
    settings = {"rate_limit_storage": way.url, "rate_limit_storage_failure": policy}
    client = start_replica(rate_limit_tokens=100, rate_limit_period=3600, **settings)
    used = client.post("/generate", json=BODY).json()["generated"][0]["tokens"]
    wait_until(lambda: taken(storage) == [1 + used])
    way.delay, way.asked = 0.4 * ANSWER_SECONDS, b""  # two questions are of requests, then tokens
    assert client.post("/generate", json=BODY).status_code == status_code
    wait_until(lambda: way.asked.count(b"tokens/") == 3)  # both periods' keys, and again this one's
    wait_until(lambda: taken(storage) == [1 + used])
    way.delay = 0
    wait_until(lambda: is_up(client))
    assert client.post("/generate", json=BODY).status_code == 200


@pytest.mark.parametrize("kind", ["tokens", "concurrent"])
def test_what_was_taken_for_a_client_that_left_is_given_back(limits, storage, way, kind):
    async def leave() -> None:
        take = limits.reserve_tokens("a", 10, 100) if kind == "tokens" else limits.begin("a", 5)
        asked = asyncio.create_task(take)
        await asyncio.sleep(ANSWER_SECONDS / 4)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()

    asyncio.run(limits.reserve_tokens("a", 10, 100))  # scripts are known, connections open
    asyncio.run(limits.begin("a", 5))
    way.delay = ANSWER_SECONDS / 2
    asyncio.run(leave())
    before = {"tokens": [20], "concurrent": [2]}[kind]
    after = {"tokens": [10], "concurrent": [1]}[kind]
    assert taken(storage, kind) in (before, after)
    wait_until(lambda: taken(storage, kind) == after)
    limits.storage.close()


def run_until(limits: RateLimit, condition: Callable[[], bool]) -> None:
    """Lets `watch` run until the condition holds."""

    async def run() -> None:
        watching = asyncio.create_task(limits.storage.watch())
        await asyncio.to_thread(wait_until, condition)
        watching.cancel()

    asyncio.run(run())


def reserve(limits: RateLimit, num_tokens: int) -> Reservation:
    reservation = asyncio.run(limits.reserve_tokens("a", num_tokens, 100))
    assert reservation is not None
    return reservation


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_given_back_while_redis_is_gone_is_there_when_it_is_back(
    limits, storage, way: Way, is_lost
):
    reservation = reserve(limits, 40)
    way.delay = None
    assert asyncio.run(limits.reserve_tokens("b", 1, 100)) is None  # it is down
    limits.give_back_tokens(reservation, 30)
    assert taken(storage)
    if is_lost:  # then there is nothing to give back, and nobody has more than before
        storage.stop()
        storage.start()
    way.delay = 0
    if is_lost:
        run_until(limits, lambda: limits.storage._is_up)
        limits.storage._threads.shutdown()
        assert taken(storage) == []
    else:
        run_until(limits, lambda: 10 in taken(storage))
        limits.storage.close()


def test_no_more_is_given_back_than_was_taken(limits, storage):
    reservation = reserve(limits, 40)
    limits.give_back_tokens(reservation, 30)
    limits.give_back_tokens(reservation, 30)
    limits.storage._threads.shutdown()
    assert taken(storage) == [0]


def test_a_question_without_an_answer_is_sent_once(limits, way):
    asyncio.run(limits.reserve_tokens("a", 10, 100))
    way.delay, way.asked = None, b""
    assert asyncio.run(limits.reserve_tokens("a", 10, 100)) is None
    limits.storage._threads.shutdown()
    assert way.asked.count(b"EVALSHA") == 1
