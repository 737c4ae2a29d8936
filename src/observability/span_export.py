"""Span processor that exports in batches; needs OpenTelemetry's SDK, so imported lazily."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.export import BatchSpanProcessor

QUERY = "url.query"
REDACTED = "REDACTED"
"""The conventions' word for redacted values."""


class SpanSender(BatchSpanProcessor):
    """Redacts the query of URLs: no route reads it, and it may hold keys by mistake."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.attributes and QUERY in span.attributes:
            span.set_attribute(QUERY, REDACTED)
        super().on_start(span, parent_context)
