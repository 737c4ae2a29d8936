"""Watchdog of the event loop: measures how long callbacks block it.

A task sleeps for a tick and measures how late it wakes up: the time that the event loop was
blocked. Ten wake-ups a second cost next to nothing.
"""

import asyncio
import logging

from prometheus_client import Histogram

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
WARN_SECONDS = 1.0


class EventLoopWatchdog:
    """Measures the lag of the event loop that it runs in.

    Args:
        lag: observes the lag of each tick, in seconds.
    """

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag

    async def watch(self) -> None:
        """Measures until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.record(loop.time() - due)

    def record(self, seconds: float) -> None:
        """Observes a tick's lag, and logs a long one."""
        self._lag.observe(max(0.0, seconds))
        if seconds >= WARN_SECONDS:
            logger.warning("the event loop was blocked", extra={"seconds": round(seconds, 3)})
