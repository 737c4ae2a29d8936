"""Prometheus metrics of the service, in a registry of their own for each app.

With several workers each writes its figures to files in PROMETHEUS_MULTIPROC_DIR, and `render` adds
them up (prometheus_client's multiprocess mode).

Counters are there from the start with all their labels: of one that appears with its first error
Prometheus would not see that error.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MAX_CALLERS = 100
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
STATUSES = ("success", "error", "client_error", "rate_limited", "cancelled")
UNMATCHED = "__unmatched__"
"""The endpoint of a request that no route knows."""

LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)


class HttpMetrics:
    """Counts what the service does."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "inference_requests_total",
            "Requests answered. status: success, error (the service's fault), client_error (the"
            " caller's), rate_limited, cancelled (the caller left).",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "inference_request_duration_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.limit_storage_up = Gauge(
            "inference_rate_limit_storage_up",
            "1 while requests can be counted in RATE_LIMIT_STORAGE, 0 while it does not answer.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.ready = Gauge(
            "inference_ready",
            "1 while requests can be served, 0 while the model loads or once the engine is dead; of"
            " several workers the least.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.max_live = Gauge(
            "inference_sequences_limit",
            "Sequences that may be inside, running and waiting, MAX_BATCH_SIZE + MAX_QUEUE_SIZE if"
            " the KV cache has room for all that may run; more get 503. 0 while the model loads.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.max_step_seconds = Gauge(
            "inference_step_limit_seconds",
            "HANG_TIMEOUT_SECONDS: when a step takes longer the process ends.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.loop_lag = Histogram(
            "inference_event_loop_lag_seconds",
            "Seconds by which the event loop woke up late, measured ten times a second: while it is"
            " held, no request is read and none is answered, health checks included.",
            buckets=LAG_SECONDS,
            registry=self.registry,
        )
        self.caller_requests = Counter(
            "inference_caller_requests_total",
            "Requests by API key's id. `other` is all keys after the first 100, `jwt` all tokens,"
            " `anybody` who has neither.",
            ["caller"],
            registry=self.registry,
        )
        self.caller_tokens = Counter(
            "inference_caller_tokens_total",
            "Tokens by API key's id, as above. kind: prompt, generated.",
            ["caller", "kind"],
            registry=self.registry,
        )
        self._callers: set[str] = set()
        self._observe_process()

    def _observe_process(self) -> None:
        """Workers share one answer, so of them only the last one's start is told."""
        if MULTIPROC_DIR not in os.environ:
            ProcessCollector(registry=self.registry)
            return
        Gauge(
            "process_start_time_seconds",
            "When the worker that started last did so, in seconds since 1970.",
            registry=self.registry,
            multiprocess_mode="livemax",
        ).set_to_current_time()

    def expect_requests(self, endpoints: Iterable[str]) -> None:
        """Makes the counters of these endpoints, all of them 0."""
        self.requests.labels(UNMATCHED, "client_error")
        for endpoint in endpoints:
            for status in STATUSES:
                self.requests.labels(endpoint, status)

    def caller_label(self, caller_id: str) -> str:
        """How a caller is called in metrics: there are never many names."""
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
    """What a worker counted stays, but how it was when it died does not."""
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
