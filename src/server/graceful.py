"""uvicorn's server, which ends as we want it to: nobody who is being answered is cut off."""

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

LAST_WORDS_SECONDS = 2
"""Between the engine's end and the process's: answers leave, and probes see why."""

GOODBYE_SECONDS = 0.5
"""After the last answer: what a client has sent by then is refused, and not cut off."""

LOOK_SECONDS = 0.05


class Server(uvicorn.Server):
    """Listens on until all that runs is answered, and tells who still is when the grace is over.

    A second signal ends it at once. One of several workers may get the first one twice, from
    whoever sent it to all processes and from the supervisor: there a second SIGINT alone does,
    which the supervisor sends when a second signal has come to it. A SIGHUP is neither the first
    nor the second: a terminal that closes may send it twice, and whoever stops the service
    afterwards asks for the first time.

    Args:
        config: of the server.
        service: the parts of the app that it serves.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._is_leaving = False
        self._was_told = False

    @property
    def serves(self) -> bool:
        """Whether requests that come now are answered."""
        return self.started and self.service.is_loaded and not self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_forced = self.force_exit or (self._was_told and sig != signal.SIGHUP)
        self._was_told |= sig != signal.SIGHUP
        self.service.draining.is_draining = True
        super().handle_exit(sig, frame)
        if self.config.workers == 1:  # uvicorn takes a SIGINT after a SIGHUP for a second one
            self.force_exit = is_forced

    def leave(self) -> None:
        """Ends it in favour of others that listen on the same port; may be called in any thread.

        They take the connections that come, and it refuses none of the requests on its own.
        """
        self._is_leaving = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self.service.settings.shutdown_grace_seconds
        deadline = time.monotonic() + grace
        ending = asyncio.get_running_loop().call_later(grace, self._end_engine)
        if self._is_leaving:
            await self._close_port(deadline, self.config.timeout_keep_alive + 1)
        else:
            await self._drain(deadline)
            await self._close_port(deadline, GOODBYE_SECONDS)
        left = max(0, math.ceil(deadline - time.monotonic()))
        self.config.timeout_graceful_shutdown = left + LAST_WORDS_SECONDS
        await super().shutdown(sockets)
        ending.cancel()

    async def _drain(self, deadline: float) -> None:
        """Refuses what comes, and waits for whoever is answered."""
        draining = self.service.draining
        logger.info("no requests are taken any more", extra={"running": draining.num_in_flight})
        await self._wait(deadline, lambda: draining.num_in_flight)

    async def _close_port(self, deadline: float, seconds: float) -> None:
        """Takes no more connections, and waits so long for clients to leave those that there are.

        Were they closed at once, requests that are on their way on them would be lost.
        """
        connections = self.server_state.connections
        logger.info("no connections are taken any more", extra={"open": len(connections)})
        for server in self.servers:
            server.close()
        # With this uvicorn closes a connection when its request is answered.
        self.server_state.default_headers.append((b"connection", b"close"))
        await self._wait(min(deadline, time.monotonic() + seconds), lambda: len(connections))

    async def _wait(self, deadline: float, num_left: Callable[[], int]) -> None:
        while (  # noqa: ASYNC110 - a signal may end it too
            num_left() and not self.force_exit and time.monotonic() < deadline
        ):
            await asyncio.sleep(LOOK_SECONDS)

    def _end_engine(self) -> None:
        if self.service.engine_watch is not None:
            self.service.engine_watch.cancel()  # its end is no failure now
        self.service.engine.end()
