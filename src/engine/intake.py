"""The door of an engine: which requests are inside, whether more may come, and what they are told.

Any thread may add requests; the engine's thread publishes what becomes of them. Whatever happens,
a request that was let in gets one last output with a finish reason, and only one.
"""

import math
import threading
import time
from collections import deque
from dataclasses import replace

from src.engine.request import (
    EngineStats,
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
    UpdateCallback,
)
from src.errors import EngineDeadError, OverloadedError

NUM_ENDS = 64
"""The drain rate is measured over the last so many ends of requests."""

RETRY_SECONDS = (1, 60)
"""Bounds of what a refused caller is told, when to come again."""


class Intake:
    """Keeps the live requests of one engine.

    Args:
        max_live: requests that run and wait at most.
        on_update: gets every update, in the engine's thread.
    """

    def __init__(self, max_live: int, on_update: UpdateCallback) -> None:
        self.max_live = max_live
        self._on_update = on_update
        self._lock = threading.Lock()  # guards all below
        self._is_open = True
        self._live: set[str] = set()
        self._ends: deque[float] = deque(maxlen=NUM_ENDS)

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def num_live(self) -> int:
        return len(self._live)

    def admit(self, requests: list[Request]) -> None:
        """Lets requests in, all or none.

        Raises:
            EngineDeadError: the engine takes no requests any more.
            OverloadedError: too many are inside already.
        """
        with self._lock:
            if not self._is_open:
                raise EngineDeadError("The engine has ended and takes no requests.")
            if len(self._live) + len(requests) > self.max_live:
                raise OverloadedError(
                    f"The queue is full: {len(self._live)} sequences run or wait.",
                    self._seconds_to_drain(),
                )
            if not self._live:
                self._ends.clear()  # what ended before this was idle says nothing of the rate
                self._ends.append(time.monotonic())
            ids = {request.request_id for request in requests}
            assert len(ids) == len(requests)
            assert not ids & self._live
            self._live |= ids

    def seconds_to_drain(self) -> int:
        """How long what is inside will take, at the rate at which requests ended lately."""
        with self._lock:
            return self._seconds_to_drain()

    def _seconds_to_drain(self) -> int:
        least, most = RETRY_SECONDS
        if not self._ends:
            return least
        seconds_each = (time.monotonic() - self._ends[0]) / len(self._ends)
        return max(least, min(most, math.ceil(len(self._live) * seconds_each)))

    def publish(self, update: EngineUpdate) -> None:
        """Hands on what is new; of requests that have ended nothing more is told."""
        with self._lock:
            outputs = [output for output in update.outputs if output.request_id in self._live]
            ended = [output.request_id for output in outputs if output.finish_reason]
            self._live.difference_update(ended)
            self._ends.extend([time.monotonic()] * len(ended))
        self._on_update(replace(update, outputs=outputs))

    def close(self) -> None:
        """Lets nobody in any more."""
        with self._lock:
            self._is_open = False

    def end_all(self, reason: FinishReason) -> None:
        """Closes, and tells everybody who is still inside that it is over."""
        self.close()
        outputs = [RequestOutput(request_id, [], reason) for request_id in list(self._live)]
        self.publish(EngineUpdate(outputs, EngineStats()))
