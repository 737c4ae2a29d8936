"""Graceful shutdown: uvicorn's server, which answers all accepted requests before it ends."""

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from src.server.service import Service

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2
"""From the engine's end to the process's: answers are sent, and probes see the reason."""

REFUSE_SECONDS = 0.5
"""After the last answer: requests sent by then are refused rather than lost."""

POLL_SECONDS = 0.05


class Server(uvicorn.Server):
    """Listens until all running requests are answered, and ends the rest when the grace is over.

    Its port stays open meanwhile: a closed one would look to probes like a crashed service.

    A second signal ends it at once. Two cases are not second signals:

    - A worker may get the first signal twice: from a sender that signals all processes, and from
      the supervisor. In a worker only a second SIGINT counts; the supervisor sends one when it
      gets a second signal itself.
    - A closing terminal may send SIGHUP twice, and SIGTERM after that is the first request to stop.

    Args:
        config: of the server.
        service: parts of the app that it serves.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._is_retired = False
        self._was_signalled = False  # by anything but SIGHUP

    @property
    def is_ready(self) -> bool:
        """New requests are answered."""
        return self.started and self.service.is_loaded and not self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles SIGTERM, SIGINT and SIGHUP: the first drains, the second ends at once."""
        is_forced = self.force_exit or (self._was_signalled and sig != signal.SIGHUP)
        self._was_signalled |= sig != signal.SIGHUP
        self.service.draining.is_draining = True
        super().handle_exit(sig, frame)
        if self.config.workers == 1:  # uvicorn takes a SIGINT after a SIGHUP for a second one
            self.force_exit = is_forced

    def retire(self) -> None:
        """Ends it in favour of others that listen on the same port; may be called in any thread.

        New connections go to the others, and requests on open ones are answered, not refused.
        """
        self._is_retired = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains, closes the port, then shuts down as uvicorn does in the time that is left."""
        grace = self.service.settings.shutdown_grace_seconds
        deadline = time.monotonic() + grace
        engine_end = asyncio.get_running_loop().call_later(grace, self._end_engine)
        if self._is_retired:
            await self._close_port(deadline, self.config.timeout_keep_alive + 1)
        else:
            await self._drain(deadline)
            await self._close_port(deadline, REFUSE_SECONDS)
        seconds_left = max(0, math.ceil(deadline - time.monotonic()))
        self.config.timeout_graceful_shutdown = seconds_left + FLUSH_SECONDS
        await super().shutdown(sockets)
        engine_end.cancel()

    async def _drain(self, deadline: float) -> None:
        """Refuses new requests, and waits for the running ones."""
        draining = self.service.draining
        logger.info("draining: new requests are refused", extra={"running": draining.num_in_flight})
        await self._wait(deadline, lambda: draining.num_in_flight)

    async def _close_port(self, deadline: float, seconds: float) -> None:
        """Accepts no more connections, and waits `seconds` for clients to leave the open ones.

        Closing them at once would lose requests that are on their way.
        """
        connections = self.server_state.connections
        logger.info("new connections are refused", extra={"open": len(connections)})
        for server in self.servers:
            server.close()
        # With this header uvicorn closes a connection when its request is answered.
        self.server_state.default_headers.append((b"connection", b"close"))
        await self._wait(min(deadline, time.monotonic() + seconds), lambda: len(connections))

    async def _wait(self, deadline: float, num_left: Callable[[], int]) -> None:
        while (  # noqa: ASYNC110 - a signal may end it too
            num_left() and not self.force_exit and time.monotonic() < deadline
        ):
            await asyncio.sleep(POLL_SECONDS)

    def _end_engine(self) -> None:
        if self.service.engine_watch is not None:
            self.service.engine_watch.cancel()  # its end is no failure now
        self.service.engine.end()
