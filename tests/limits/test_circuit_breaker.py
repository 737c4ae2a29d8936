"""The circuit breaker for Redis: its state, its metric and its log."""

from prometheus_client import Gauge

from src.limits.circuit_breaker import CircuitBreaker


def create_gauge() -> Gauge:
    return Gauge("storage_up", "1 while Redis answers", registry=None)


def value(gauge: Gauge) -> float:
    return gauge.collect()[0].samples[0].value


def test_starts_closed():
    gauge = create_gauge()
    assert not CircuitBreaker(gauge).is_open
    assert value(gauge) == 1


def test_logs_each_outage_once(caplog):
    gauge = create_gauge()
    breaker = CircuitBreaker(gauge)
    for _ in range(2):
        breaker.open("connection refused")
        breaker.open("no answer")
        assert breaker.is_open
        assert value(gauge) == 0
        breaker.close()
        breaker.close()
        assert not breaker.is_open
        assert value(gauge) == 1
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "WARNING"] * 2
    assert "connection refused" in caplog.text
    assert "no answer" not in caplog.text
