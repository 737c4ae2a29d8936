"""`AdmissionController`: bounds the requests in an engine, and publishes their outputs.

A tenant below its weighted share of the queue is admitted though the queue is full. The scheduler
then displaces the newest sequence of the tenant with the highest weighted load, so no tenant can
keep another out.

Any thread may add requests; the engine's thread publishes their outputs. Every admitted request
gets exactly one last output with a finish reason, whatever happens.
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
"""Window of the drain rate: the last ends of requests."""

RETRY_SECONDS = (1, 60)
"""Bounds of the retry time in a refusal."""


class AdmissionController:
    """Tracks the live requests of one engine.

    Args:
        max_live: maximum number of requests, running and waiting.
        on_update: called with every update, in the engine's thread.
        num_shared_places: places of the queue that tenants share by weight; 0 for an engine that
            displaces no request.
    """

    def __init__(
        self, max_live: int, on_update: UpdateCallback, num_shared_places: int = 0
    ) -> None:
        self.max_live = max_live
        self._on_update = on_update
        self._num_shared_places = num_shared_places
        self._lock = threading.Lock()  # guards all attributes below
        self._is_open = True
        self._live: dict[str, Request] = {}
        self._num_held: Counter[str] = Counter()  # live requests by tenant
        self._weights: dict[str, int] = {}  # of these tenants
        self._ends: deque[float] = deque(maxlen=NUM_ENDS)  # monotonic seconds

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def num_live(self) -> int:
        return len(self._live)

    def admit(self, requests: list[Request]) -> None:
        """Admits requests of one tenant, all or none.

        Raises:
            EngineDeadError: the engine has ended.
            OverloadedError: the queue is full.
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
                self._ends.clear()  # the rate before an idle time does not count
                self._ends.append(time.monotonic())
            added = {request.request_id: request for request in requests}
            assert len(added) == len(requests)
            assert not added.keys() & self._live.keys()
            self._live |= added
            self._num_held.update(request.tenant for request in requests)
            self._weights |= {request.tenant: request.weight for request in requests}

    def _is_within_share(self, requests: list[Request]) -> bool:
        """Returns True if the tenant's requests, with these, are within its share of the queue."""
        tenant, weight = requests[0].tenant, requests[0].weight
        weights = sum(self._weights.values()) - self._weights.get(tenant, 0) + weight
        held = self._num_held[tenant] + len(requests)
        return held * weights <= self._num_shared_places * weight

    def seconds_to_drain(self) -> int:
        """Estimates the time until all live requests have ended, from the recent drain rate."""
        with self._lock:
            return self._seconds_to_drain()

    def _seconds_to_drain(self) -> int:
        min_seconds, max_seconds = RETRY_SECONDS
        if not self._ends:
            return min_seconds
        seconds_each = (time.monotonic() - self._ends[0]) / len(self._ends)
        return max(min_seconds, min(max_seconds, math.ceil(len(self._live) * seconds_each)))

    def publish(self, update: EngineUpdate) -> None:
        """Passes an update on, without outputs of requests that have ended."""
        with self._lock:
            outputs = [output for output in update.outputs if output.request_id in self._live]
            ended = [output.request_id for output in outputs if output.finish_reason]
            for request_id in ended:
                self._release(self._live.pop(request_id))
            self._ends.extend([time.monotonic()] * len(ended))
        self._on_update(replace(update, outputs=outputs))

    def _release(self, request: Request) -> None:
        self._num_held[request.tenant] -= 1
        if not self._num_held[request.tenant]:
            del self._num_held[request.tenant], self._weights[request.tenant]

    def close(self) -> None:
        """Refuses all further requests."""
        with self._lock:
            self._is_open = False

    def end_all(self, reason: FinishReason) -> None:
        """Closes, and ends all live requests with this reason."""
        self.close()
        outputs = [RequestOutput(request_id, [], reason) for request_id in list(self._live)]
        self.publish(EngineUpdate(outputs, EngineStats()))
