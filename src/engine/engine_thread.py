"""The thread that owns an engine's model, and the inbox through which other threads reach it.

The thread blocks on its inbox while there is no work, and empties it between two steps. It never
sleeps or polls.
"""

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.engine.admission import AdmissionController
from src.engine.request import FinishReason, Request

if TYPE_CHECKING:
    from src.engine.lora.state import LoraState

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10
"""A step that takes longer hangs; the process ends without waiting for it."""


@dataclass(frozen=True, slots=True)
class _Add:
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class EngineThread(ABC):
    """Base of both engines: implements `interface.Engine`, which documents the public methods.

    A subclass starts the thread at the end of its constructor; from then on that thread alone calls
    the abstract methods.

    Args:
        name: of the thread.
        admission: admits requests and publishes their outputs.
    """

    def __init__(self, name: str, admission: AdmissionController) -> None:
        self.admission = admission
        self.lora: LoraState | None = None
        self._inbox: queue.SimpleQueue[_Add | _Abort | _Stop] = queue.SimpleQueue()
        self._is_stopping = False
        self._step_started_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    @abstractmethod
    def num_cache_tokens(self) -> int | None:
        """See `Engine`."""

    @property
    def seconds_in_step(self) -> float:
        started_at = self._step_started_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    def add_requests(self, requests: list[Request]) -> None:
        self.admission.admit(requests)
        self._inbox.put(_Add(requests))

    def abort_request(self, request_id: str) -> None:
        self._inbox.put(_Abort(request_id))

    def shutdown(self) -> None:
        self.admission.close()
        self._inbox.put(_Stop())
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            logger.error("the engine's thread did not end: a step of the model hangs")

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """False lets the thread block until a message comes."""

    @abstractmethod
    def _add(self, request: Request) -> None:
        """Takes in an admitted request."""

    @abstractmethod
    def _abort(self, request_id: str) -> None:
        """Ends a request, if it is here."""

    @abstractmethod
    def _step(self) -> None:
        """Computes, and publishes the outputs; there is work."""

    def _start_step(self) -> None:
        """Starts the heartbeat's clock, anew if it runs."""
        self._step_started_at = time.monotonic()

    def _end_step(self) -> None:
        self._step_started_at = None

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

    def _read_inbox(self) -> bool:
        """Handles all messages; waits for one while there is no work. False: time to stop."""
        while not self._is_stopping and (not self._has_work or not self._inbox.empty()):
            match self._inbox.get():
                case _Add(requests):
                    for request in requests:
                        self._add(request)
                case _Abort(request_id):
                    self._abort(request_id)
                case _Stop():
                    self._is_stopping = True
        return not self._is_stopping
