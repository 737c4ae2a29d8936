"""Classes for tables of metrics; the tables are in `http_metrics.py` and `engine_metrics.py`.

Each app creates its own metrics from them. They are also the source of docs/metrics.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

M = TypeVar("M", Counter, Gauge, Histogram)
Aggregation = Literal["livesum", "livemin", "livemax"]


@dataclass(frozen=True, slots=True, eq=False)
class MetricSpec(Generic[M]):
    """One metric.

    Args:
        kind: its class in prometheus_client.
        name: as scraped, so a counter's ends with `_total`.
        meaning: shown as its HELP line.
        labels: names of its labels.
        values: of its only label, present at 0 from the start. Prometheus' `rate` misses the first
            increment of a series that appears with it.
        options: further arguments of the class.
    """

    kind: type[M]
    name: str
    meaning: str
    labels: tuple[str, ...]
    values: tuple[str, ...]
    options: Mapping[str, Any]

    def create(self, registry: CollectorRegistry) -> M:
        """Creates the metric in a registry."""
        metric = self.kind(self.name, self.meaning, self.labels, registry=registry, **self.options)
        for value in self.values:
            metric.labels(value)
        return metric


class Metrics:
    """Metrics of a table, found by their specifications.

    Args:
        specs: of the metrics.
        registry: holds the metrics.
    """

    def __init__(self, specs: Sequence[MetricSpec[Any]], registry: CollectorRegistry) -> None:
        self._created = {spec: spec.create(registry) for spec in specs}

    def __getitem__(self, spec: MetricSpec[M]) -> M:
        metric: M = self._created[spec]
        return metric


class MetricTable:
    """Specifications in the order of their definition."""

    def __init__(self) -> None:
        self.specs: list[MetricSpec[Any]] = []

    def counter(
        self, name: str, meaning: str, *labels: str, values: Sequence[str] = ()
    ) -> MetricSpec[Counter]:
        """Adds a counter; `values` are those of its only label."""
        return self._add(MetricSpec(Counter, name, meaning, labels, tuple(values), {}))

    def gauge(
        self, name: str, meaning: str, across_workers: Aggregation = "livesum"
    ) -> MetricSpec[Gauge]:
        """Adds a gauge; `across_workers` aggregates the gauges of several processes."""
        options = {"multiprocess_mode": across_workers}
        return self._add(MetricSpec(Gauge, name, meaning, (), (), options))

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> MetricSpec[Histogram]:
        """Adds a histogram; `buckets` are upper bounds."""
        return self._add(MetricSpec(Histogram, name, meaning, labels, (), {"buckets": buckets}))

    def create(self, registry: CollectorRegistry) -> Metrics:
        """Creates all metrics of the table in a registry."""
        return Metrics(self.specs, registry)

    def _add(self, spec: MetricSpec[M]) -> MetricSpec[M]:
        self.specs.append(spec)
        return spec
