"""Tracing with OpenTelemetry: off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

Spans are nested in this way:

- FastAPI creates a span for each HTTP request, below the client's span if `traceparent` is sent.
- Each sequence has a span by OpenTelemetry's conventions for generative AI
  (opentelemetry.io/docs/specs/semconv/gen-ai).
- Each phase of a sequence has a span: queue, prefill and decode.

Spans of sequences are created at their end, from the times that `core/output_dispatcher.py` took.
No span holds a prompt, a stop text, a generated text, or the query of a URL.

The SDK reads all other OTEL_* variables itself.
"""

import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from structlog.types import EventDict, WrappedLogger

from src import __version__
from src.core.observers import SequenceStats
from src.errors import SettingsError
from src.observability.engine_metrics import EMBEDDINGS, FINISHED

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
SERVICE_NAME = "llm-inference"

# Named as in the conventions. Stop texts are missing, as they are part of a prompt.
PARAMETERS = (
    "max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed",
)  # fmt: skip


class Tracing:
    """Exports spans to OTEL_EXPORTER_OTLP_ENDPOINT.

    Args:
        provider: not the global one, so that libraries export no spans.
        model_name: name of the served model.
    """

    def __init__(self, provider: "TracerProvider", model_name: str) -> None:
        self.provider = provider
        self.model_name = model_name
        self._is_shut_down = False
        self._tracer = provider.get_tracer("src", __version__)

    def sequence_ended(self, sequence: SequenceStats) -> None:
        """Creates the spans of a sequence below the current span."""
        assert sequence.ended_at is not None
        clock = time.time_ns() - time.monotonic_ns()

        def at(seconds: float) -> int:
            return round(seconds * 1e9) + clock

        span = self._tracer.start_span(
            f"{sequence.operation} {self.model_name}",
            kind=SpanKind.INTERNAL,
            attributes=self._attributes(sequence),
            start_time=at(sequence.arrived_at),
        )
        if sequence.outcome not in FINISHED:
            span.set_status(StatusCode.ERROR)
        below = trace.set_span_in_context(span)
        for name, start, end in _phases(sequence):
            self._tracer.start_span(name, below, start_time=at(start)).end(at(end))
        span.end(at(sequence.ended_at))

    def shutdown(self) -> None:
        """Exports the pending spans; blocks until the receiver answers, so call it in a thread.

        A second call has no effect.
        """
        if not self._is_shut_down:
            self._is_shut_down = True
            self.provider.shutdown()

    def _attributes(self, sequence: SequenceStats) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": sequence.operation,
            "gen_ai.provider.name": SERVICE_NAME,
            "gen_ai.request.model": self.model_name,
            "gen_ai.response.model": self.model_name,
            "gen_ai.response.id": sequence.request_id,
            "gen_ai.usage.input_tokens": sequence.num_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": sequence.num_cached_tokens,
        }
        if sequence.operation != EMBEDDINGS:
            attributes |= self._generation_attributes(sequence)
        if sequence.outcome not in FINISHED:
            attributes["error.type"] = str(sequence.outcome)
        return attributes

    def _generation_attributes(self, sequence: SequenceStats) -> dict[str, Any]:
        attributes: dict[str, Any] = {"gen_ai.usage.output_tokens": sequence.num_tokens}
        for name in PARAMETERS:
            value = getattr(sequence.params, name)
            if value is not None:
                attributes[f"gen_ai.request.{name}"] = value
        if sequence.outcome in FINISHED:
            attributes["gen_ai.response.finish_reasons"] = [str(sequence.outcome)]
        return attributes


def create_tracing(model_name: str) -> Tracing | None:
    """Returns None if OTEL_EXPORTER_OTLP_ENDPOINT is not set.

    Raises:
        SettingsError: OpenTelemetry's SDK is not installed, or another protocol than HTTP with
            protobuf is set.
    """
    if not os.environ.get(ENDPOINT):
        return None
    for name in PROTOCOLS:
        if os.environ.get(name, PROTOCOL) != PROTOCOL:
            raise SettingsError(
                f"{name}={os.environ[name]}: only {PROTOCOL} is supported. Unset it."
            )
    try:
        # An optional dependency, and half a second of imports.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

        from src.observability.span_export import SpanSender  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"{ENDPOINT} is set, but OpenTelemetry's SDK is not installed. Install it with"
            " `pip install -e '.[tracing]'`, or unset the variable."
        ) from error
    provider = TracerProvider(
        resource=_with_service_name(Resource.create({"service.version": __version__}))
    )
    provider.add_span_processor(SpanSender(OTLPSpanExporter()))
    return Tracing(provider, model_name)


def telemetry_config(tracing: Tracing | None, untraced_paths: Collection[str]) -> TelemetryConfig:
    """Returns FastAPI's settings: spans of HTTP requests if there is tracing, and nothing else.

    Its logs would hold the messages of exceptions, and /metrics has the figures.

    Args:
        tracing: None traces nothing.
        untraced_paths: paths of probes, which get no spans.
    """
    return {
        "tracing": tracing is not None,
        "tracer_provider": tracing.provider if tracing else None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope.get("path") in untraced_paths,
    }


def add_trace_ids(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Adds the ids of the current span to a log message."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _phases(sequence: SequenceStats) -> list[tuple[str, float, float]]:
    """Returns name, start and end of each phase; none if the sequence was never admitted."""
    if sequence.admitted_at is None:
        return []
    assert sequence.ended_at is not None
    prefilled_at = sequence.first_token_at or sequence.ended_at
    phases = [
        ("queue", sequence.arrived_at, sequence.admitted_at),
        ("prefill", sequence.admitted_at, prefilled_at),
    ]
    if sequence.first_token_at is not None:
        phases.append(("decode", prefilled_at, sequence.ended_at))
    return phases


def _with_service_name(resource: "Resource") -> "Resource":
    """Adds SERVICE_NAME unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES set another."""
    if not str(resource.attributes["service.name"]).startswith("unknown_service"):
        return resource
    return resource.merge(type(resource)({"service.name": SERVICE_NAME}))
