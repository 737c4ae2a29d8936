"""Supervisor of several worker processes behind one port: starts, replaces and ends them.

A worker that starts while others are ready accepts connections only once its model is loaded; the
others take them meanwhile. While no worker is ready, a new one listens at once, so that probes and
clients get an answer, unless LISTEN_WHEN_LOADED is set.

Dead workers are replaced with exponential backoff (`restart`). The service ends by itself only if
a worker cannot start and none was ever ready.
"""

import logging
import math
import os
import signal
import time

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from src.server.graceful import FLUSH_SECONDS
from src.server.restart import Restart
from src.server.worker import Worker

logger = logging.getLogger(__name__)

JOIN_POLL_SECONDS = 0.1


class Supervisor(Multiprocess):
    """Starts workers, replaces dead ones, and ends after them; at a second signal at once.

    SIGHUP replaces all workers in turn: a new one loads beside the others, and once it is ready an
    old one retires; SIGTTOU retires one. This goes on between health checks, as does the wait for
    the workers' end. uvicorn's own `restart_all`, `handle_ttou` and `join_all` would block signals
    and the care for other workers.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        hangup = signal.getsignal(signal.SIGHUP)
        super().__init__(config, [config.bind_socket()])
        if hangup is signal.SIG_IGN:  # set by nohup
            signal.signal(signal.SIGHUP, hangup)
        self._num_signals = 0
        self._outdated: list[Worker] = []
        self._successor: Worker | None = None
        self._retire_deadlines: dict[Worker, float] = {}
        self._was_ever_ready = False
        self.has_failed_to_start = False
        """The service ends because a worker could not start and none was ever ready."""

    @property
    def _workers(self) -> list[Worker]:
        return self.processes  # type: ignore[return-value]

    def _start_worker(self, restart: Restart) -> Worker:
        is_served = any(worker.is_serving() for worker in self._workers)
        worker = Worker(self.config, self.sockets, wait_for_model=is_served, restart=restart)
        worker.start()
        return worker

    def init_processes(self) -> None:
        """Starts the first workers."""
        for _ in range(self.processes_num):
            self.processes.append(self._start_worker(Restart()))

    def handle_int(self) -> None:
        """Handles SIGINT."""
        self._num_signals += 1
        super().handle_int()

    def handle_term(self) -> None:
        """Handles SIGTERM."""
        self._num_signals += 1
        super().handle_term()

    def handle_hup(self) -> None:
        """Handles SIGHUP: marks all workers as outdated."""
        logger.info("SIGHUP: all workers are replaced, one after another")
        self._outdated = list(self._workers)

    def handle_ttin(self) -> None:
        """Handles SIGTTIN: adds a worker."""
        self.processes_num += 1
        self.processes.append(self._start_worker(Restart()))

    def handle_ttou(self) -> None:
        """Handles SIGTTOU: retires a worker, one that is not ready if there is any."""
        if self.processes_num == 1:
            logger.info("SIGTTOU: the last worker stays")
            return
        self.processes_num -= 1
        worker = min(reversed(self._workers), key=lambda worker: worker.was_ready)
        logger.info("SIGTTOU: a worker retires", extra={"worker": worker.pid})
        self.processes.remove(worker)
        self._retire(worker)

    def keep_subprocess_alive(self) -> None:
        """Replaces dead and hung workers, then makes the next step of a replacement by SIGHUP."""
        for index, worker in enumerate(self._workers):
            if self.should_exit.is_set():
                return
            if not worker.restart.is_scheduled:
                self._check(worker)
            if worker.restart.is_due:
                self.processes[index] = self._start_worker(worker.restart.create_next())
        if not self.should_exit.is_set():
            self._replace_next()

    def _check(self, worker: Worker) -> None:
        """Schedules the restart of a worker that is dead or hung."""
        if worker.is_alive(self.config.timeout_worker_healthcheck):
            self._was_ever_ready |= worker.was_ready
            return
        reason = worker.reap()
        if worker.exitcode == STARTUP_FAILURE and not self._was_ever_ready:
            logger.error("a worker cannot start, so the service ends")
            self.has_failed_to_start = True
            self.should_exit.set()
            return
        worker.restart.schedule()
        logger.warning(
            "a worker died and is replaced",
            extra={"worker": worker.pid, "reason": reason, "restart_in": worker.restart.delay},
        )

    def _replace_next(self) -> None:
        """Makes the next step that SIGHUP asks for, if it can be made now."""
        self._outdated = [worker for worker in self._outdated if worker in self.processes]
        self._reap_retiring()
        if self._retire_deadlines:
            return
        if self._successor is not None:
            self._put_in_place(self._successor)
        elif self._outdated:
            self._successor = self._start_worker(Restart())

    def _put_in_place(self, successor: Worker) -> None:
        """Lets a worker take an old one's place, if it is ready by now."""
        if not successor.is_alive(self.config.timeout_worker_healthcheck):
            reason = successor.reap()
            logger.error(
                "a new worker does not start, and the old ones stay", extra={"reason": reason}
            )
            self._successor, self._outdated = None, []
        elif successor.was_ready:
            # Without an outdated worker all have died and been replaced: there is one too many.
            retiring = self._outdated.pop(0) if self._outdated else successor
            if retiring is not successor:
                self.processes[self.processes.index(retiring)] = successor
            self._successor = None
            self._retire(retiring)

    def _retire(self, worker: Worker) -> None:
        """Tells a worker to end, and sets its deadline."""
        worker.retire()
        seconds = self.config.timeout_graceful_shutdown or 0
        self._retire_deadlines[worker] = time.monotonic() + seconds + FLUSH_SECONDS

    def _reap_retiring(self) -> None:
        """Forgets retiring workers that have ended, and kills late ones."""
        for worker, deadline in list(self._retire_deadlines.items()):
            if not worker.process.is_alive() or time.monotonic() > deadline:
                worker.kill()
                worker.join()
                del self._retire_deadlines[worker]

    def terminate_all(self) -> None:
        """Sends SIGTERM to all workers, those that are being replaced too."""
        if self._successor is not None:
            self.processes.append(self._successor)
        self.processes += self._retire_deadlines
        super().terminate_all()

    def join_all(self) -> None:
        """Waits for the workers' end; a second signal interrupts them, and then kills them."""
        deadline = math.inf
        while any(worker.process.is_alive() for worker in self.processes):
            time.sleep(JOIN_POLL_SECONDS)
            self.handle_signals()
            if self._num_signals > 1 and deadline == math.inf:
                logger.warning("a second signal: the workers end now")
                self._signal_all(signal.SIGINT)
                deadline = time.monotonic() + FLUSH_SECONDS
            if time.monotonic() > deadline:
                self._signal_all(signal.SIGKILL)
        super().join_all()

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self.processes:
            if worker.process.is_alive():
                assert worker.pid is not None
                os.kill(worker.pid, number)
