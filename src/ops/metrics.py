"""Prometheus metrics of the service, in a registry of their own for each app.

With several workers each writes its figures to files in PROMETHEUS_MULTIPROC_DIR, and `render` adds
them up (prometheus_client's multiprocess mode).
"""

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)


class Metrics:
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
        self.generated_tokens = Counter(
            "generated_tokens_total", "Tokens generated.", registry=self.registry
        )

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
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type


def _status(status_code: int) -> str:
    if status_code < 400:
        return "success"
    if status_code >= 500:
        return "error"
    return {429: "rate_limited", 499: "cancelled"}.get(status_code, "client_error")
