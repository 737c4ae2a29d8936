"""Logging: one event per line, JSON in production, readable text in development.

All messages go through the standard library's `logging`, so that those of libraries look the same;
structlog renders them. No message holds a prompt or a generated text.
"""

import logging
import sys

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from src.config import Settings
from src.observability.tracing import add_trace_ids


def _drop_color_message(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Drops uvicorn's second copy of a message, which has colours."""
    event.pop("color_message", None)
    return event


def configure_logging(settings: Settings) -> None:
    """Sends all log messages to standard error; ENVIRONMENT decides about the format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _drop_color_message,
    ]
    if settings.environment == "production":
        rendering: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        # plain_traceback: richer formatters print local variables, and so prompts.
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # the middleware logs requests
    logging.captureWarnings(capture=True)
    for name in ("httpx2", "httpcore2", "asyncio", "slowapi", "torch", "urllib3"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
