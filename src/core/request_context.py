"""`RequestContext`: deadline, field and operation of one API call."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from src.core.outputs import Operation
from src.core.timings import CallTimings
from src.errors import FieldPath, GenerationTimeoutError


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Facts about one API call that every step of it needs.

    Args:
        deadline: time on the event loop's clock, in seconds.
        field: path of the prompt in the request's body, for error messages.
        operation: label for metrics and traces.
        timings: filled in while the call's sequences run.
    """

    deadline: float
    field: FieldPath = ("prompt",)
    operation: Operation = Operation.TEXT_COMPLETION
    timings: CallTimings = dataclasses.field(default_factory=CallTimings, compare=False)

    def at(self, field: FieldPath) -> "RequestContext":
        """Returns the same context for a prompt at another path of the body."""
        return replace(self, field=field)

    @asynccontextmanager
    async def time_limit(self) -> AsyncGenerator[None]:
        """Cancels the body of the `async with` statement at the deadline.

        Raises:
            GenerationTimeoutError: the deadline has passed.
        """
        try:
            async with asyncio.timeout_at(self.deadline):
                yield
        except TimeoutError:
            raise timeout_error() from None


def timeout_error() -> GenerationTimeoutError:
    """Creates the error for a request without a token at its deadline."""
    return GenerationTimeoutError(
        "No token was generated within the server's time limit (TIMEOUT_SECONDS). Send a shorter"
        " prompt, or try again when the server is less busy."
    )
