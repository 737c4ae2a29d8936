"""File descriptors and signals of one grammar process."""

import contextlib
import os
import select
import signal
import threading
from multiprocessing.connection import Connection
from socket import SHUT_RDWR, socket


class ProcessLink:
    """Socket, mask file and pidfd of a grammar process. Thread-safe.

    Args:
        connection: socket to the process.
        mask_file: descriptor of the file to which the process writes masks.
    """

    def __init__(self, connection: Connection, mask_file: int) -> None:
        self.connection = connection
        self.mask_file = mask_file
        self.is_open = True
        self._pidfd: int | None = None  # unlike a process id, it is never reused
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        with self._lock:
            if self._pidfd is None or not self.is_open:
                return self.is_open
            ended, _, _ = select.select([self._pidfd], [], [], 0)
            return not ended

    def identify(self, process_id: int) -> None:
        """Opens a pidfd of the process, which must be running.

        Without pidfds (macOS, old sandboxes) the process's own timer ends it when it is busy.
        """
        with contextlib.suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(process_id)

    def kill(self) -> None:
        """Ends the process; a thread that waits for its answer reads EOF."""
        with self._lock:
            self._kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process runs."""
        with self._lock:
            self._signal(number)

    def close(self) -> None:
        """Ends the process and closes the descriptors."""
        with self._lock:
            self._kill()
            if self.is_open:
                self.is_open = False
                self.connection.close()
                os.close(self.mask_file)
                if self._pidfd is not None:
                    os.close(self._pidfd)

    def _kill(self) -> None:
        if not self.is_open:
            return
        stream = socket(fileno=os.dup(self.connection.fileno()))
        with stream, contextlib.suppress(OSError):  # the process may have ended
            stream.shutdown(SHUT_RDWR)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_open and self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
