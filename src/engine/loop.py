"""The one thread that owns the engine's core.

Others talk to it through an inbox. It blocks on the inbox while there is nothing to do, empties it
between two steps, and never sleeps or polls.
"""

import logging
import queue
import threading
import time
from dataclasses import dataclass

from src.engine.admission import AdmissionController
from src.engine.core import EngineCore
from src.engine.request import FinishReason, Request

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10
"""A step that takes longer hangs; the end of the process does not wait for it."""


@dataclass(frozen=True, slots=True)
class _Add:
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class EngineLoop:
    """Runs an `EngineCore` in a thread of its own.

    Args:
        core: touched by no other thread from now on.
        admission: admits requests and publishes their outputs.
    """

    def __init__(self, core: EngineCore, admission: AdmissionController) -> None:
        self.admission = admission
        self._core = core
        self._inbox: queue.SimpleQueue[_Add | _Abort | _Stop] = queue.SimpleQueue()
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def seconds_in_step(self) -> float:
        """The heartbeat: how long the current step has been taking; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else time.monotonic() - started

    def add_requests(self, requests: list[Request]) -> None:
        """Queues requests, all or none. The last output of each carries a finish reason.

        Raises:
            EngineDeadError: the engine takes no requests any more.
            OverloadedError: too many wait already.
        """
        self.admission.admit(requests)
        self._inbox.put(_Add(requests))

    def abort_request(self, request_id: str) -> None:
        """Ends a request before the next step; one that is not there is none of our business."""
        self._inbox.put(_Abort(request_id))

    def shutdown(self) -> None:
        """Aborts all requests and waits for the thread to end. May be called twice."""
        self.admission.close()
        self._inbox.put(_Stop())
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            logger.error("the engine's thread does not end: a step hangs")

    def _run(self) -> None:
        reason = FinishReason.ERROR
        try:
            while self._read_inbox():
                self._step()
            reason = FinishReason.ABORT
        except BaseException:
            logger.critical("the engine's thread has died", exc_info=True)
        finally:
            self.admission.end_all(reason)

    def _step(self) -> None:
        self._step_started = time.monotonic()
        update = self._core.step()
        self._step_started = None
        self.admission.publish(update)

    def _add(self, request: Request) -> None:
        update = self._core.add(request)
        if update.outputs:
            self.admission.publish(update)

    def _read_inbox(self) -> bool:
        """Handles what has come, and waits for work if there is none. False: it is time to stop."""
        while not self._core.has_work or not self._inbox.empty():
            match self._inbox.get():
                case _Add(requests):
                    for request in requests:
                        self._add(request)
                case _Abort(request_id):
                    self.admission.publish(self._core.abort(request_id))
                case _Stop():
                    return False
        return True
