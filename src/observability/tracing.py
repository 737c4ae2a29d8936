"""Tracing with OpenTelemetry: off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

FastAPI makes a span of each HTTP request, below the caller's span if its `traceparent` names one.
Below that, each sequence gets a span by the conventions for generative AI
(opentelemetry.io/docs/specs/semconv/gen-ai), and below that one each for its time in the queue, for
its prompt (prefill) and for its tokens (decode). They are made when the sequence has ended, from
times that `core/output_dispatcher.py` took. No span holds a prompt, a stop text, a generated text,
or the query of a URL.

Whatever else OpenTelemetry can be told, its SDK reads from OTEL_* variables itself.
"""

import os
import time
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from structlog.types import EventDict, WrappedLogger

from src import __version__
from src.core.observers import SequenceStats
from src.errors import SettingsError
from src.middleware.request_log import OPERATIONS
from src.observability.engine_metrics import EMBEDDINGS, FINISHED

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
SERVICE_NAME = "llm-inference"

# The conventions have the same names for them. Stop texts are missing: they are a caller's words.
PARAMETERS = (
    "max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed",
)  # fmt: skip


class Tracing:
    """Sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT says.

    Args:
        provider: not the global one, so that no library sends spans of its own.
        model_name: the server's.
    """

    def __init__(self, provider: "TracerProvider", model_name: str) -> None:
        self.provider = provider
        self.model_name = model_name
        self._is_shut_down = False
        self._tracer = provider.get_tracer("src", __version__)

    def sequence_ended(self, sequence: SequenceStats) -> None:
        """Makes the spans of a sequence, below the current one."""
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
        """Sends what is left; takes as long as the receiver does, so call it in a thread.

        May be called again, without effect.
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
        SettingsError: it is set, and OpenTelemetry's SDK is not installed or is to speak a protocol
            that it cannot.
    """
    if not os.environ.get(ENDPOINT):
        return None
    for name in PROTOCOLS:
        if os.environ.get(name, PROTOCOL) != PROTOCOL:
            raise SettingsError(f"{name}={os.environ[name]}: traces are sent by {PROTOCOL} alone.")
    try:
        # An extra of the package, and half a second that nobody else should wait.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

        from src.observability.span_export import SpanSender  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"{ENDPOINT} is set, but what sends traces is not installed. Install it with"
            " `pip install -e '.[tracing]'`, or unset the variable."
        ) from error
    provider = TracerProvider(resource=_named(Resource.create({"service.version": __version__})))
    provider.add_span_processor(SpanSender(OTLPSpanExporter()))
    return Tracing(provider, model_name)


def telemetry_config(tracing: Tracing | None) -> TelemetryConfig:
    """What FastAPI is to do: spans of HTTP requests if there is tracing, and nothing else.

    Its logs would hold the messages of exceptions, and /metrics has the figures.
    """
    return {
        "tracing": tracing is not None,
        "tracer_provider": tracing.provider if tracing else None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope.get("path") in OPERATIONS,
    }


def add_trace_ids(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Adds to a log message the ids of the span in which it was written, if there is one."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _phases(sequence: SequenceStats) -> list[tuple[str, float, float]]:
    """Name, start and end of each; of a sequence that had no turn there is none."""
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


def _named(resource: "Resource") -> "Resource":
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our name."""
    if not str(resource.attributes["service.name"]).startswith("unknown_service"):
        return resource
    return resource.merge(type(resource)({"service.name": SERVICE_NAME}))
