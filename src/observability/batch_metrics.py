"""Prometheus metrics of batches and background responses, in the registry of the app."""

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
RESPONSES = TABLE.counter(
    "inference_background_responses_total",
    "Background responses that were answered. status: completed, incomplete, failed.",
    "status",
    values=("completed", "incomplete", "failed"),
)
RESPONSES_RUNNING = TABLE.gauge(
    "inference_background_responses_running", "Background responses that run."
)
RESPONSES_OPEN = TABLE.gauge(
    "inference_background_responses_open",
    "Background responses that have not ended; processes with the same BATCH_DIR report the same"
    " number.",
    across_workers="livemax",
)


class BatchMetrics:
    """Figures of batches and background responses.

    Args:
        registry: holds the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        metrics = TABLE.create(registry)
        self._lines = metrics[LINES]
        self._running, self._open = metrics[LINES_RUNNING], metrics[LINES_OPEN]
        self._batches, self._oldest = metrics[BATCHES_OPEN], metrics[OLDEST]
        self._responses = metrics[RESPONSES]
        self._responses_running = metrics[RESPONSES_RUNNING]
        self._responses_open = metrics[RESPONSES_OPEN]

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

    def responses_measured(self, num_open: int, num_running: int) -> None:
        """Sets the gauges of background responses."""
        self._responses_open.set(num_open)
        self._responses_running.set(num_running)

    def response_ended(self, status: str) -> None:
        """Counts a background response that was answered."""
        self._responses.labels(status).inc()
