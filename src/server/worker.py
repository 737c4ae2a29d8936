"""Worker process: serves the app, and answers the supervisor's health checks over a pipe."""

import signal
import socket
from contextlib import suppress

import uvicorn
from uvicorn.importer import import_from_string
from uvicorn.supervisors import multiprocess

from src.server.graceful import Server
from src.server.process_end import run_to_end
from src.server.restart import Restart
from src.server.service import service_of

APP = "src.main:app"
"""Import string of the app, for processes that are spawned."""

ANSWER_SECONDS = 1

EXIT_SECONDS = 1
"""From the pipe's end to the exit status of a process that is ending."""

SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}

# Messages from the supervisor, and a worker's answers to PING.
PING = b"ping"
RETIRE = b"retire"
READY = b"ready"
NOT_READY = b"not ready"


class Worker(multiprocess.Process):
    """Worker process that serves the app, and ends as a single process does.

    Args:
        config: of its server.
        sockets: listening sockets, shared by all workers.
        wait_for_model: accept connections only once the model is loaded.
        restart: of this worker when it dies.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        *,
        wait_for_model: bool,
        restart: Restart,
    ) -> None:
        super().__init__(config, sockets)
        self._wait_for_model = wait_for_model
        self._own_server: Server | None = None  # in the worker's own process
        self._has_answered = False
        self.was_ready = False
        """Answer to the last ping; false if it was late."""
        self.restart = restart

    def start(self) -> None:
        """Starts the process."""
        super().start()
        # Only the worker holds its end of the pipe then: if it dies while the supervisor waits for
        # an answer, the pipe ends, and the supervisor need not wait for HANG_TIMEOUT_SECONDS.
        self.child_conn.close()

    def retire(self) -> None:
        """Tells the worker to end once its open requests are answered, or at once if it loads."""
        if not self.was_ready:
            self.terminate()
            return
        with suppress(OSError):  # it has ended
            self.parent_conn.send_bytes(RETIRE)

    def ping(self, timeout: float = 5) -> bool:
        """Asks whether the worker is ready; returns whether it answered in time."""
        answer = self._ask(timeout)
        self.was_ready = answer == READY
        self._has_answered |= answer is not None
        if self.was_ready:
            self.restart.record_ready()
        return answer is not None

    def is_ready(self, timeout: float = 5) -> bool:
        """Asks whether the worker is ready."""
        return self.ping(timeout) and self.was_ready

    def _ask(self, timeout: float) -> bytes | None:
        with suppress(OSError, EOFError):  # it has ended
            self.parent_conn.send_bytes(PING)
            if self.parent_conn.poll(timeout):
                return self.parent_conn.recv_bytes()
        return None

    def is_serving(self) -> bool:
        """Returns whether the worker is ready; asks again only if its last answer was negative.

        A worker that has not answered yet is still importing, so it is not asked.
        """
        if not self.process.is_alive():
            return False
        return self.was_ready or (self._has_answered and self.is_ready(ANSWER_SECONDS))

    def reap(self) -> str:
        """Ends a dead or hung worker; returns its exit status, its signal or `hung`."""
        self.was_ready = False
        self.process.join(EXIT_SECONDS)
        status = self.exitcode
        self.kill()
        self.join()
        if status is None:
            return "hung"
        if status >= 0:
            return f"status {status}"
        return SIGNAL_NAMES.get(-status, f"signal {-status}")

    # The rest runs in the worker's process.

    @property
    def server(self) -> Server:
        assert self._own_server is not None
        return self._own_server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until the process is told to end."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to workers too
        service = service_of(import_from_string(APP))
        service.wait_for_model |= self._wait_for_model
        self._own_server = Server(self.config, service)
        run_to_end(lambda: super(Worker, self).target(sockets), service)

    def pong(self) -> None:
        """Receives one message and acts on it."""
        if self.child_conn.recv_bytes() == RETIRE:
            self.server.retire()
        else:
            self.child_conn.send_bytes(READY if self.server.is_ready else NOT_READY)
