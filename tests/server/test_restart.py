"""Restarts of workers: delays, and their reset."""

import pytest

from src.server import restart
from src.server.restart import MAX_SECONDS, STABLE_SECONDS, Restart


class Clock:
    """Monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(restart, "time", clock)
    return clock


def test_delays_double_up_to_a_maximum():
    restarts = [Restart()]
    for _ in range(2000):
        restarts.append(restarts[-1].create_next())
    assert [one.delay for one in restarts[:8]] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert restarts[-1].delay == MAX_SECONDS


def test_restart_is_due_after_its_delay(clock):
    restart = Restart(8)
    assert not restart.is_scheduled
    assert not restart.is_due
    restart.schedule()
    clock.now += 7.9
    assert restart.is_scheduled
    assert not restart.is_due
    clock.now += 0.1
    assert restart.is_due


@pytest.mark.parametrize(
    ("ready_seconds", "delay", "next_delay"), [(STABLE_SECONDS, 0, 1), (STABLE_SECONDS - 1, 8, 16)]
)
def test_a_worker_that_was_ready_for_a_minute_resets_the_delay(
    clock, ready_seconds, delay, next_delay
):
    restart = Restart(8)
    restart.record_ready()
    clock.now += ready_seconds
    restart.record_ready()
    restart.schedule()
    assert restart.delay == delay
    assert restart.is_due == (delay == 0)
    assert restart.create_next().delay == next_delay


def test_time_without_an_answer_does_not_reset_the_delay(clock):
    restart = Restart(8)
    restart.record_ready()
    clock.now += 2 * STABLE_SECONDS
    restart.schedule()
    assert restart.delay == 8
