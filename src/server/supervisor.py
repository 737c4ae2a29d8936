"""Several processes behind one port, and the one that starts them, replaces them, and ends them.

A worker that starts while others serve takes no connection before its model is loaded: the others
take them. While no worker serves, it listens at once, so that probes and clients get an answer,
unless LISTEN_WHEN_LOADED is set.
"""

import logging
import math
import os
import signal
import socket
import time
from contextlib import suppress

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import import_from_string
from uvicorn.supervisors import Multiprocess, multiprocess

from src.server.graceful import LAST_WORDS_SECONDS, Server
from src.server.process_end import run_to_end
from src.server.service import service_of

logger = logging.getLogger(__name__)

APP = "src.main:app"
"""Where processes that are started for it find the app."""

ANSWER_SECONDS = 1
JOIN_LOOK_SECONDS = 0.1
LEAVE = b"leave"
"""What a worker is told that another has taken the place of."""


class Worker(multiprocess.Process):
    """One of several processes that serve; it ends as one alone does.

    Args:
        config: of its server.
        sockets: that it listens on.
        wait_for_model: whether it does so only once its model is loaded.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, wait_for_model: bool
    ) -> None:
        super().__init__(config, sockets)
        self._loads_first = wait_for_model
        self.serves = False
        """What it said of that when it was asked last."""
        self._has_answered = False

    def start(self) -> None:
        super().start()
        # The worker's end of the pipe is open in it alone then: if it dies while the supervisor
        # waits for an answer, the pipe ends, and not the whole of HANG_TIMEOUT_SECONDS passes.
        self.child_conn.close()

    def leave(self) -> None:
        """Lets it answer what it has, and end."""
        with suppress(OSError):  # it has ended
            self.parent_conn.send(LEAVE)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to workers too
        service = service_of(import_from_string(APP))
        service.wait_for_model |= self._loads_first
        self._server = Server(self.config, service)
        run_to_end(lambda: super(Worker, self).target(sockets), service)

    def pong(self) -> None:
        assert isinstance(self._server, Server)
        if self.child_conn.recv() == LEAVE:
            self._server.leave()
        else:
            self.child_conn.send(self._server.serves)

    def _healthcheck(self, timeout: float) -> bool | None:
        answer = super()._healthcheck(timeout)
        self.serves = answer is True
        self._has_answered |= answer is not None
        return answer

    def serves_now(self) -> bool:
        """Whether it serves; it is asked again if it did not a while ago, and is no longer new."""
        if not self.process.is_alive():
            return False
        return self.serves or (self._has_answered and self.is_ready(ANSWER_SECONDS))


class Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and ends when they have; at a second signal at once.

    SIGHUP replaces all workers, one after another: a new one loads beside the others, and when it
    serves an old one leaves. uvicorn's own way waits meanwhile without a look at signals and at
    those that die, as it does for its workers' end.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        # uvicorn has no other place to say what a worker is: four of its methods make one.
        multiprocess.Process = self._create  # type: ignore[misc,assignment]
        hangup = signal.getsignal(signal.SIGHUP)
        super().__init__(config, [config.bind_socket()])
        if hangup is signal.SIG_IGN:  # which nohup wants
            signal.signal(signal.SIGHUP, hangup)
        self._num_signals = 0
        self._outdated: list[Worker] = []
        self._successor: Worker | None = None
        self._leaving: Worker | None = None
        self._leaving_deadline = math.inf

    def _create(self, config: uvicorn.Config, sockets: list[socket.socket]) -> Worker:
        others_serve = any(one.serves_now() for one in self._workers)
        return Worker(config, sockets, wait_for_model=others_serve)

    @property
    def _workers(self) -> list[Worker]:
        return self.processes  # type: ignore[return-value]

    def handle_int(self) -> None:
        self._num_signals += 1
        super().handle_int()

    def handle_term(self) -> None:
        self._num_signals += 1
        super().handle_term()

    def handle_hup(self) -> None:
        logger.info("SIGHUP: all workers are replaced, one after another")
        self._outdated = list(self._workers)

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if not self.should_exit.is_set():
            self._replace_next()

    def _replace_next(self) -> None:
        """What can be done now of what SIGHUP asks for."""
        self._outdated = [one for one in self._outdated if one in self.processes]
        if self._leaving is not None:
            self._see_off(self._leaving)
        elif self._successor is not None:
            self._put_in_place(self._successor)
        elif self._outdated:
            self._successor = self._create(self.config, self.sockets)
            self._successor.start()

    def _put_in_place(self, worker: Worker) -> None:
        """Lets a worker take an old one's place, if it serves by now."""
        if not worker.is_alive(self.config.timeout_worker_healthcheck):
            logger.error("a new worker does not start, and the old ones stay")
            worker.kill()
            worker.join()
            self._successor, self._outdated = None, []
        elif worker.serves:
            # All others have died by themselves if there is no old one.
            leaving = self._outdated.pop(0) if self._outdated else worker
            if leaving is not worker:
                self.processes[self.processes.index(leaving)] = worker
            leaving.leave()
            self._successor, self._leaving = None, leaving
            seconds = self.config.timeout_graceful_shutdown or 0
            self._leaving_deadline = time.monotonic() + seconds + LAST_WORDS_SECONDS

    def _see_off(self, worker: Worker) -> None:
        """Forgets a worker that has left, or lets it hang no longer."""
        if not worker.process.is_alive() or time.monotonic() > self._leaving_deadline:
            worker.kill()
            worker.join()
            self._leaving = None

    def terminate_all(self) -> None:
        self.processes += [one for one in (self._successor, self._leaving) if one is not None]
        super().terminate_all()

    def join_all(self) -> None:
        deadline = math.inf
        while any(worker.process.is_alive() for worker in self.processes):
            time.sleep(JOIN_LOOK_SECONDS)
            self.handle_signals()
            if self._num_signals > 1 and deadline == math.inf:
                logger.warning("a second signal: the workers end now")
                self._signal_all(signal.SIGINT)
                deadline = time.monotonic() + LAST_WORDS_SECONDS
            if time.monotonic() > deadline:
                self._signal_all(signal.SIGKILL)
        super().join_all()

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self.processes:
            if worker.process.is_alive():
                assert worker.pid is not None
                os.kill(worker.pid, number)

    @property
    def has_failed_to_start(self) -> bool:
        return any(worker.exitcode == STARTUP_FAILURE for worker in self.processes)
