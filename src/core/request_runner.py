"""`RequestRunner`: requests on their way through the engine and back, within their time."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from src.core.engine_lifecycle import EngineLifecycle
from src.core.output_dispatcher import Outcome, OutputDispatcher, Trim
from src.core.outputs import Operation
from src.engine.interface import Engine
from src.engine.request import FAILURES, Request, RequestOutput
from src.errors import GenerationTimeoutError

HOLD_SECONDS = 0.005
"""A call that has had the event loop for so long gives others their turn."""


class _Outputs:
    """Reads a call's outputs; gives the event loop back between outputs that are there already.

    A queue that is never empty never suspends its reader: 128 sequences of a call would have the
    event loop to themselves until the last one ends.

    Args:
        queue: of the call.
    """

    def __init__(self, queue: "asyncio.Queue[RequestOutput | None]") -> None:
        self._queue = queue
        self._since = time.monotonic()

    async def get(self) -> RequestOutput | None:
        """The next output, once it is there."""
        if self._queue.empty():
            output = await self._queue.get()
            self._since = time.monotonic()
            return output
        if time.monotonic() - self._since > HOLD_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()
        return self._queue.get_nowait()


class RequestRunner:
    """Hands requests to the engine, and what comes back to their callers.

    Args:
        host: of the engine.
        delivery: the way there and back.
    """

    def __init__(self, host: EngineLifecycle, delivery: OutputDispatcher) -> None:
        self._host = host
        self._delivery = delivery

    async def run(
        self,
        engine: Engine,
        requests: list[Request],
        live: set[str],
        deadline: float,
        operation: Operation,
        trims: Mapping[str, Trim] | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Hands requests to the engine, and yields their outputs until all have ended.

        Leaving the iterator ends those that are live. When one fails, all end. When the time is up
        those that are live end with what they have, and the reason LENGTH.

        Args:
            engine: that is ready.
            requests: all or none are taken in.
            live: their ids; those that have ended are taken out.
            deadline: on the event loop's clock.
            operation: what they are there for.
            trims: as of `OutputDispatcher.submit`.

        Raises:
            ServiceError: as `stream_batch`.
        """
        queue = await self._delivery.submit(engine, requests, operation, trims)
        outputs = _Outputs(queue)
        # One timer a call: one for each token took as long as the rest of this loop.
        ids = [request.request_id for request in requests]
        alarm = asyncio.get_running_loop().call_at(deadline, self._delivery.cut, ids, queue)
        try:
            while live:
                output = await outputs.get()
                if output is None:
                    raise out_of_time()
                if output.request_id not in live:
                    continue  # what was under way when the caller ended it
                if output.finish_reason in FAILURES:
                    raise self._host.failure(output.finish_reason, engine)
                if output.finish_reason is not None:
                    live.remove(output.request_id)
                yield output
        finally:
            alarm.cancel()
            for request_id in live:
                self._delivery.end(engine, request_id, Outcome.CANCELLED)


@asynccontextmanager
async def until(deadline: float) -> AsyncGenerator[None]:
    """Ends what is in its context when the time is up.

    Raises:
        GenerationTimeoutError: it is.
    """
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise out_of_time() from None


def out_of_time() -> GenerationTimeoutError:
    """What a caller is told whose time is up."""
    return GenerationTimeoutError(
        "No answer was begun within the time that this server allows (TIMEOUT_SECONDS). Send a"
        " shorter prompt, or try again when it is less busy."
    )
