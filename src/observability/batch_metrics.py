"""Prometheus metrics of batches, in the registry of the app."""

from prometheus_client import CollectorRegistry

from src.observability.metric_specs import MetricTable

TABLE = MetricTable()

LINES = TABLE.counter(
    "inference_batch_lines_total",
    "Lines of batches that were answered. result: completed, failed (in the error file).",
    "result",
    values=("completed", "failed"),
)
LINES_RUNNING = TABLE.gauge("inference_batch_lines_running", "Lines of batches that run.")
LINES_OPEN = TABLE.gauge(
    "inference_batch_lines_open",
    "Lines without an answer of batches that have not ended; processes with the same BATCH_DIR"
    " report the same number.",
    across_workers="livemax",
)
BATCHES_OPEN = TABLE.gauge(
    "inference_batches_open",
    "Batches that have not ended; processes with the same BATCH_DIR report the same number.",
    across_workers="livemax",
)
OLDEST = TABLE.gauge(
    "inference_batch_oldest_seconds",
    "Age of the oldest batch that has not ended; 0 without any.",
    across_workers="livemax",
)


class BatchMetrics:
    """Figures of batches.

    Args:
        registry: holds the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        metrics = TABLE.create(registry)
        self._lines = metrics[LINES]
        self._running, self._open = metrics[LINES_RUNNING], metrics[LINES_OPEN]
        self._batches, self._oldest = metrics[BATCHES_OPEN], metrics[OLDEST]

    def backlog_measured(
        self, num_batches: int, num_lines: int, num_running: int, oldest_seconds: float
    ) -> None:
        """Sets the gauges."""
        self._batches.set(num_batches)
        self._open.set(num_lines)
        self._running.set(num_running)
        self._oldest.set(oldest_seconds)

    def line_ended(self, *, is_error: bool) -> None:
        """Counts a line with an answer."""
        self._lines.labels("failed" if is_error else "completed").inc()
