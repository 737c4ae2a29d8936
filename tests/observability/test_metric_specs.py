"""Metrics are created from tables of specifications."""

from prometheus_client import CollectorRegistry

from src.observability import batch_metrics, engine_metrics, http_metrics
from src.observability.metric_specs import MetricTable


def test_a_counter_starts_at_0_with_all_values_of_its_label():
    table, registry = MetricTable(), CollectorRegistry()
    table.counter("ends_total", "Ends.", "reason", values=("stop", "length"))
    table.create(registry)
    assert registry.get_sample_value("ends_total", {"reason": "stop"}) == 0
    assert registry.get_sample_value("ends_total", {"reason": "length"}) == 0


def test_each_registry_has_its_own_metrics():
    table, registries = MetricTable(), (CollectorRegistry(), CollectorRegistry())
    spec = table.counter("events_total", "Events.")
    first, _ = (table.create(registry) for registry in registries)
    first[spec].inc()
    assert [registry.get_sample_value("events_total") for registry in registries] == [1, 0]


def test_every_specification_has_its_own_name_and_a_sentence():
    specs = [
        *http_metrics.TABLE.specs,
        *engine_metrics.TABLE.specs,
        *batch_metrics.TABLE.specs,
    ]
    assert len({spec.name for spec in specs}) == len(specs) > 30
    assert all(spec.meaning.endswith(".") for spec in specs)
