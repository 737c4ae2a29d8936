"""Prometheus metrics of the process and of HTTP requests, in a registry of each app.

With several workers each writes its figures to files in PROMETHEUS_MULTIPROC_DIR, and `render`
aggregates them (prometheus_client's multiprocess mode).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from src.observability.metric_specs import MetricTable

MAX_CALLERS = 100
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
STATUSES = ("success", "error", "client_error", "rate_limited", "cancelled")
UNMATCHED = "__unmatched__"
"""Endpoint of a request that matches no route."""

LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)


TABLE = MetricTable()

REQUESTS = TABLE.counter(
    "inference_requests_total",
    "Requests answered. status: success, error (of the server), client_error, rate_limited,"
    " cancelled (the client disconnected).",
    "endpoint",
    "status",
)
REQUEST_DURATION = TABLE.histogram(
    "inference_request_duration_seconds",
    "Seconds from a request's arrival to the end of its answer.",
    SECONDS,
    "endpoint",
)
LIMIT_STORAGE_UP = TABLE.gauge(
    "inference_rate_limit_storage_up",
    "1 while RATE_LIMIT_STORAGE answers, 0 while requests cannot be counted there.",
    across_workers="livemin",
)
READY = TABLE.gauge(
    "inference_ready",
    "1 while the service is ready, 0 while the model loads or once the engine is dead; the minimum"
    " of all workers.",
    across_workers="livemin",
)
MAX_LIVE = TABLE.gauge(
    "inference_sequences_limit",
    "Maximum of sequences running and waiting; more get 503. MAX_BATCH_SIZE + MAX_QUEUE_SIZE if the"
    " KV cache has room for a full batch; 0 while the model loads.",
)
MAX_STEP_SECONDS = TABLE.gauge(
    "inference_step_limit_seconds",
    "HANG_TIMEOUT_SECONDS: a step that takes longer ends the process.",
    across_workers="livemax",
)
LOOP_LAG = TABLE.histogram(
    "inference_event_loop_lag_seconds",
    "Seconds by which the event loop woke up late, measured ten times a second: while it is"
    " blocked, no request is read or answered, health checks included.",
    LAG_SECONDS,
)
CALLER_REQUESTS = TABLE.counter(
    "inference_caller_requests_total",
    "Requests by API key's id. caller: `other` for all keys after the first 100, `jwt` for all"
    " tokens, `anybody` without authentication.",
    "caller",
)
CALLER_TOKENS = TABLE.counter(
    "inference_caller_tokens_total",
    "Tokens by API key's id, as above. kind: prompt, generated.",
    "caller",
    "kind",
)


class HttpMetrics:
    """Metrics of the process and of HTTP requests, and the registry of all metrics."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        metrics = TABLE.create(self.registry)
        self.requests = metrics[REQUESTS]
        self.request_duration = metrics[REQUEST_DURATION]
        self.limit_storage_up = metrics[LIMIT_STORAGE_UP]
        self.ready = metrics[READY]
        self.max_live = metrics[MAX_LIVE]
        self.max_step_seconds = metrics[MAX_STEP_SECONDS]
        self.loop_lag = metrics[LOOP_LAG]
        self.caller_requests = metrics[CALLER_REQUESTS]
        self.caller_tokens = metrics[CALLER_TOKENS]
        self._callers: set[str] = set()
        self._observe_process()

    def _observe_process(self) -> None:
        """Adds figures of the process; several workers share one scrape, so only their start."""
        if MULTIPROC_DIR not in os.environ:
            ProcessCollector(registry=self.registry)
            return
        Gauge(
            "process_start_time_seconds",
            "Start of the newest worker, in seconds since 1970.",
            registry=self.registry,
            multiprocess_mode="livemax",
        ).set_to_current_time()

    def expect_requests(self, endpoints: Iterable[str]) -> None:
        """Creates the counters of these endpoints, at 0 (see `MetricSpec.values`)."""
        self.requests.labels(UNMATCHED, "client_error")
        for endpoint in endpoints:
            for status in STATUSES:
                self.requests.labels(endpoint, status)

    def caller_label(self, caller_id: str) -> str:
        """Returns a caller's label; their number is bounded by MAX_CALLERS."""
        if not caller_id:
            return "anybody"
        if caller_id.startswith("jwt:"):
            return "jwt"
        if len(self._callers) < MAX_CALLERS:
            self._callers.add(caller_id)
        return caller_id if caller_id in self._callers else "other"

    def observe_request(self, endpoint: str, status_code: int, seconds: float) -> None:
        """Counts an answered request.

        Args:
            endpoint: the route's template, never a raw path.
            status_code: of the answer.
            seconds: from arrival to the end of the answer.
        """
        self.requests.labels(endpoint, _status(status_code)).inc()
        self.request_duration.labels(endpoint).observe(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns all metrics and their content type, in the format that `accept` asks for."""
        registry = self.registry
        if MULTIPROC_DIR in os.environ:
            _forget_dead_workers(Path(os.environ[MULTIPROC_DIR]))
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type


def _forget_dead_workers(folder: Path) -> None:
    """Removes gauges of dead workers; their counters stay."""
    for path in folder.glob("gauge_live*.db"):
        worker = int(path.stem.rpartition("_")[2])
        try:
            os.kill(worker, 0)  # sends nothing
        except ProcessLookupError:
            mark_process_dead(worker)  # type: ignore[no-untyped-call]


def _status(status_code: int) -> str:
    if status_code < 400:
        return "success"
    if status_code >= 500:
        return "error"
    return {429: "rate_limited", 499: "cancelled"}.get(status_code, "client_error")
