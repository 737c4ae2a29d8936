"""The sliding-window counter of tokens: what it allows, and the time to wait that it names."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limits.storage import MemoryStorage
from src.errors import RateLimitedError
from src.limits import token_quota
from src.limits.storage import WaitBudget
from src.limits.token_quota import MemoryTokenCounter, Reservation, TokenQuota, Window

SECONDS = 60
QUOTA = 100


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0 * SECONDS

    def time(self) -> float:
        return self.now


class FakeCounter:
    """Tokens by period, of one key."""

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()

    async def take(
        self, reservation: Reservation, share: float, quota: int, budget: WaitBudget
    ) -> Window:
        window = Window(self.tokens[reservation.period], self.tokens[reservation.period - 1])
        if window.num_left(quota, share) >= reservation.num_tokens:
            self.tokens[reservation.period] += reservation.num_tokens
        return window

    def give_back(self, reservation: Reservation, num_tokens: int) -> None:
        self.tokens[reservation.period] -= num_tokens


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(token_quota, "time", clock)
    return clock


def reserve(quota: TokenQuota, num_tokens: int) -> Reservation:
    return asyncio.run(quota.reserve("key", num_tokens, QUOTA, WaitBudget()))


def seconds_to_wait(quota: TokenQuota, num_tokens: int) -> int:
    """Reserves tokens; returns 0, or the time to wait if they were refused."""
    try:
        reserve(quota, num_tokens)
    except RateLimitedError as error:
        return error.retry_after
    return 0


def test_the_window_slides_over_two_periods(clock):
    quota = TokenQuota(FakeCounter(), SECONDS)
    assert reserve(quota, 80).num_left == 20
    clock.now += 1.25 * SECONDS  # 3/4 of the first period still count
    assert reserve(quota, 10).num_left == 30
    with pytest.raises(RateLimitedError) as refused:
        reserve(quota, 31)
    assert refused.value.left == 30
    clock.now += 0.75 * SECONDS
    assert reserve(quota, 0).num_left == 90


@given(
    requests=st.lists(
        st.tuples(st.integers(1, QUOTA), st.floats(0, 1.5, allow_nan=False)), max_size=20
    ),
    num_tokens=st.integers(1, QUOTA),
)
def test_a_request_is_allowed_after_the_time_to_wait(requests, num_tokens):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_quota, "time", clock)
        quota = TokenQuota(FakeCounter(), SECONDS)
        for size, periods in requests:
            if seconds_to_wait(quota, size):
                clock.now += periods * SECONDS
        wait = seconds_to_wait(quota, num_tokens)
        assert wait <= 2 * SECONDS
        clock.now += wait
        if wait:
            reserve(quota, num_tokens)


def test_memory_gives_tokens_back_once_each(clock):
    quota = TokenQuota(MemoryTokenCounter(MemoryStorage(), SECONDS), SECONDS)
    first, second = reserve(quota, 60), reserve(quota, 40)
    quota.give_back(first, 50)
    quota.give_back(second, 0)
    assert reserve(quota, 50).num_left == 0


def test_tokens_of_periods_that_do_not_count_any_more_are_not_given_back(clock):
    counter = FakeCounter()
    quota = TokenQuota(counter, SECONDS)
    reservation = reserve(quota, 60)
    clock.now += 2 * SECONDS
    quota.give_back(reservation, 60)
    assert counter.tokens[reservation.period] == 60
