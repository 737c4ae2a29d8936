"""The one thread that owns the engine's core.

Others talk to it through an inbox. It blocks on the inbox while there is nothing to do, empties it
between two steps, and never sleeps or polls.
"""

import logging
import queue
import threading
from dataclasses import dataclass

from src.engine.core import EngineCore
from src.engine.request import FinishReason, OutputCallback, Request, RequestOutput
from src.errors import EngineDeadError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Add:
    request: Request


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
    """

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._inbox: queue.SimpleQueue[_Add | _Abort | _Stop] = queue.SimpleQueue()
        self._callbacks: dict[str, OutputCallback] = {}  # of live requests
        self._lock = threading.Lock()  # guards the one above and the one below
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once the thread has ended or was told to."""
        return self._is_open

    @property
    def num_live(self) -> int:
        """Requests that wait or run."""
        return len(self._callbacks)

    def add_request(self, request: Request, on_output: OutputCallback) -> None:
        """Queues a request. Its last output carries a finish reason, whatever happens.

        Raises:
            EngineDeadError: the engine takes no requests any more.
        """
        with self._lock:
            if not self._is_open:
                raise EngineDeadError("The engine has ended and takes no requests.")
            assert request.request_id not in self._callbacks
            self._callbacks[request.request_id] = on_output
        self._inbox.put(_Add(request))

    def abort_request(self, request_id: str) -> None:
        """Ends a request before the next step; one that is not there is none of our business."""
        self._inbox.put(_Abort(request_id))

    def shutdown(self) -> None:
        """Aborts all requests and waits for the thread to end. May be called twice."""
        with self._lock:
            self._is_open = False
        self._inbox.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        reason = FinishReason.ERROR
        try:
            while self._read_inbox():
                for output in self._core.step():
                    self._deliver(output)
            reason = FinishReason.ABORT
        except BaseException:
            logger.critical("the engine's thread has died", exc_info=True)
        finally:
            self._end_all(reason)

    def _read_inbox(self) -> bool:
        """Handles what has come, and waits for work if there is none. False: it is time to stop."""
        while not self._core.has_work or not self._inbox.empty():
            message = self._inbox.get()
            match message:
                case _Add(request):
                    self._core.add(request)
                case _Abort(request_id):
                    if (output := self._core.abort(request_id)) is not None:
                        self._deliver(output)
                case _Stop():
                    return False
        return True

    def _deliver(self, output: RequestOutput) -> None:
        callback = self._callbacks[output.request_id]
        if output.finish_reason is not None:
            with self._lock:
                del self._callbacks[output.request_id]
        callback(output)

    def _end_all(self, reason: FinishReason) -> None:
        """The thread ends: whoever still waits is told."""
        with self._lock:
            self._is_open = False
            callbacks, self._callbacks = self._callbacks, {}
        for request_id, callback in callbacks.items():
            callback(RequestOutput(request_id, [], reason))
