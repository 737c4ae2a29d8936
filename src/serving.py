"""Runs the app in this process, or in several, from the first connection to the end.

A process that is to end is told by SIGTERM or SIGINT: it refuses what comes and answers what runs,
so long as the grace lasts.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import import_from_string
from uvicorn.supervisors import ChangeReload, Multiprocess, multiprocess

from src.config import Settings
from src.ops.connection import connection_class
from src.ops.draining import Draining
from src.ops.limit_storage import MEMORY
from src.ops.metrics import MULTIPROC_DIR

logger = logging.getLogger(__name__)

APP = "src.main:app"
"""Where processes that are started for it find the app."""

LAST_WORDS_SECONDS = 2
"""Between the engine's end and the process's: answers leave, and probes see why."""

DRAIN_LOOK_SECONDS = 0.05
JOIN_LOOK_SECONDS = 0.1


def serve(app: FastAPI) -> None:
    """Serves until SIGTERM or SIGINT; exits with 3 if workers cannot start."""
    settings: Settings = app.state.settings
    config = _server_config(app, settings)
    if settings.reload:
        ChangeReload(
            config, target=uvicorn.Server(config).run, sockets=[config.bind_socket()]
        ).run()
    elif settings.workers > 1:
        _serve_with_workers(config, settings)
    else:
        # uvicorn raises the signal that ended it once more when it is done; to us that is no news.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        try:
            Server(config, app).run()
        finally:  # a forced end skips the lifespan's; no thread may be inside torch at the exit
            app.state.engine.shutdown()


def end_process(status: int) -> NoReturn:
    """Ends the process at once.

    A SystemExit in a task would tear the server down around the others, and their tracebacks would
    bury the reason. Nothing is lost: no generation has been accepted yet, or all have been told.

    Args:
        status: STARTUP_FAILURE is what uvicorn, and its supervisor, take for a failed start.
    """
    logging.shutdown()
    os._exit(status)


def _server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app if settings.workers == 1 and not settings.reload else APP,
        host=settings.host,
        port=settings.port,
        reload=settings.reload,
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        http=connection_class(settings),
        ws="none",
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds + LAST_WORDS_SECONDS,
        # uvicorn's 5 seconds would kill a worker that is slow to start, or on a busy machine.
        timeout_worker_healthcheck=math.ceil(settings.hang_timeout_seconds),
    )


class Server(uvicorn.Server):
    """Listens on until all that runs is answered, and tells who still is when the grace is over.

    A second signal ends it at once. One of several workers may get the first one twice, from
    whoever sent it to all processes and from the supervisor: there a second SIGINT alone does,
    which the supervisor sends when a second signal has come to it.

    Args:
        config: of the server.
        app: what it serves.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._state = app.state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and self.config.workers == 1
        self._state.draining.is_on = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self._state.settings.shutdown_grace_seconds
        ending = asyncio.get_running_loop().call_later(grace, self._end_engine)
        await self._drain(grace)
        await super().shutdown(sockets)
        ending.cancel()

    async def _drain(self, seconds: float) -> None:
        """Waits for whoever is answered, so long at most; what is left of the time is uvicorn's."""
        draining: Draining = self._state.draining
        logger.info("no requests are taken any more", extra={"running": draining.num_open})
        started = time.monotonic()
        while (  # noqa: ASYNC110 - a signal may end it too
            draining.num_open and not self.force_exit and time.monotonic() < started + seconds
        ):
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
        left = seconds - (time.monotonic() - started)
        self.config.timeout_graceful_shutdown = max(0, math.ceil(left)) + LAST_WORDS_SECONDS

    def _end_engine(self) -> None:
        self._state.watch.cancel()  # that it ends is no failure now
        self._state.engine.end()


class Worker(multiprocess.Process):
    """One of several processes that serve; it ends as one alone does."""

    def start(self) -> None:
        super().start()
        # The worker's end of the pipe is open in it alone then: if it dies while the supervisor
        # waits for an answer, the pipe ends, and not the whole of HANG_TIMEOUT_SECONDS passes.
        self.child_conn.close()

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        self._server = Server(self.config, import_from_string(APP))
        super().target(sockets)


class Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and ends when they have; at a second signal at once.

    uvicorn's own waits for its workers without a look at the signals that come meanwhile.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        # uvicorn has no other place to say what a worker is: four of its methods make one.
        multiprocess.Process = Worker  # type: ignore[misc]
        super().__init__(config, [config.bind_socket()])
        self._num_signals = 0

    def handle_int(self) -> None:
        self._num_signals += 1
        super().handle_int()

    def handle_term(self) -> None:
        self._num_signals += 1
        super().handle_term()

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


def _serve_with_workers(config: uvicorn.Config, settings: Settings) -> None:
    if settings.rate_limit_storage == MEMORY:
        _warn_of_separate_counts(settings)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[MULTIPROC_DIR] = folder
        supervisor = Supervisor(config)
        supervisor.run()
    if supervisor.has_failed_to_start:
        sys.exit(STARTUP_FAILURE)


def _warn_of_separate_counts(settings: Settings) -> None:
    if settings.rate_limit_concurrent is not None or settings.auth == "api_key":
        logger.warning(
            "requests at the same time (RATE_LIMIT_CONCURRENT, and what keys have in its place) are"
            " counted in each worker: %d workers let through up to %d times as many",
            settings.workers,
            settings.workers,
        )
    logger.warning(
        "rate limits are counted in each worker: %d workers let through up to %d times the"
        " limit; RATE_LIMIT_STORAGE=redis://... counts them together",
        settings.workers,
        settings.workers,
    )
