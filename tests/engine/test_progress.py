"""Log lines about the phases of loading."""

import pytest

from src.engine import progress
from src.engine.progress import format_bytes, log_phase


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level("INFO", progress.__name__)


def test_a_phase_logs_bytes_and_seconds_at_its_end(caplog):
    with log_phase("loading weights", 2**30) as phase:
        phase.add(2**20)
        phase.add(2**19)
        assert not caplog.messages
    (message,) = caplog.messages
    assert message.startswith("loading weights: 1.5 MiB in 0.0")
    assert message.endswith(" s")


def test_a_phase_without_bytes_logs_its_seconds(caplog):
    with log_phase("checking attention"):
        pass
    assert caplog.messages == ["checking attention: 0.00 s"]


def test_a_long_phase_logs_its_progress(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with log_phase("loading weights", 3 * 2**30) as phase:
        for _ in range(6):
            now[0] += 1
            phase.add(2**29)
    assert caplog.messages == [
        "loading weights: 1.5 GiB of 3 GiB after 3 s",
        "loading weights: 3 GiB of 3 GiB after 6 s",
        "loading weights: 3 GiB in 6.00 s",
    ]


def test_a_phase_that_fails_logs_nothing(caplog):
    with pytest.raises(ValueError, match="x"), log_phase("loading weights"):
        raise ValueError("x")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (2**20, "1 MiB"), (3 * 2**40, "3.07e+03 GiB")],
)
def test_bytes_have_the_largest_unit_that_they_fill(num_bytes, text):
    assert format_bytes(num_bytes) == text
