"""The door of an engine: which requests are inside, whether more may come, and what they are told.

A tenant that holds less than its share of the queue is let in though all is full, and the engine
drops the newest of whoever holds most: no tenant can keep another out.

Any thread may add requests; the engine's thread publishes what becomes of them. Whatever happens,
a request that was let in gets one last output with a finish reason, and only one.
"""

import math
import threading
import time
from collections import Counter, deque
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


class AdmissionController:
    """Keeps the live requests of one engine.

    Args:
        max_live: requests that run and wait at most.
        on_update: gets every update, in the engine's thread.
        num_shared: places of the queue that tenants share so; 0 if the engine drops nobody.
    """

    def __init__(self, max_live: int, on_update: UpdateCallback, num_shared: int = 0) -> None:
        self.max_live = max_live
        self._on_update = on_update
        self._num_shared = num_shared
        self._lock = threading.Lock()  # guards all below
        self._is_open = True
        self._live: dict[str, Request] = {}
        self._num_held: Counter[str] = Counter()  # of each tenant who is inside
        self._weights: dict[str, int] = {}  # likewise
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
            is_full = len(self._live) + len(requests) > self.max_live
            if is_full and not self._is_within_share(requests):
                raise OverloadedError(
                    f"The queue is full: {len(self._live)} sequences run or wait.",
                    self._seconds_to_drain(),
                )
            if not self._live:
                self._ends.clear()  # what ended before this was idle says nothing of the rate
                self._ends.append(time.monotonic())
            added = {request.request_id: request for request in requests}
            assert len(added) == len(requests)
            assert not added.keys() & self._live.keys()
            self._live |= added
            self._num_held.update(request.tenant for request in requests)
            self._weights |= {request.tenant: request.weight for request in requests}

    def _is_within_share(self, requests: list[Request]) -> bool:
        """Whether their tenant, with them, holds no more than its share of the queue's places."""
        tenant, weight = requests[0].tenant, requests[0].weight
        weights = sum(self._weights.values()) - self._weights.get(tenant, 0) + weight
        held = self._num_held[tenant] + len(requests)
        return held * weights <= self._num_shared * weight

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
            for request_id in ended:
                self._leave(self._live.pop(request_id))
            self._ends.extend([time.monotonic()] * len(ended))
        self._on_update(replace(update, outputs=outputs))

    def _leave(self, request: Request) -> None:
        self._num_held[request.tenant] -= 1
        if not self._num_held[request.tenant]:
            del self._num_held[request.tenant], self._weights[request.tenant]

    def close(self) -> None:
        """Lets nobody in any more."""
        with self._lock:
            self._is_open = False

    def end_all(self, reason: FinishReason) -> None:
        """Closes, and tells everybody who is still inside that it is over."""
        self.close()
        outputs = [RequestOutput(request_id, [], reason) for request_id in list(self._live)]
        self.publish(EngineUpdate(outputs, EngineStats()))
