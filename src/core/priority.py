"""The priority class of a request, in a ContextVar from its arrival to its end."""

from contextvars import ContextVar

from src.engine.request import Priority

current_priority: ContextVar[Priority] = ContextVar("current_priority", default=Priority.DEFAULT)
"""Set by the routes, and to BATCH around the requests of a batch."""
