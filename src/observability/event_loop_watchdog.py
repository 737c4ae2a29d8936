"""Watchdog of the event loop: how long callbacks keep it from running others.

A task sleeps for a tick and measures how late it wakes up: as late as the event loop was held.
Ten wake-ups a second cost next to nothing.
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
        lag: where each tick's lag is counted, in seconds.
    """

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag

    async def watch(self) -> None:
        """Measures until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.record(loop.time() - due)

    def record(self, seconds: float) -> None:
        """Counts a tick that came so late, and logs a long wait."""
        self._lag.observe(max(0.0, seconds))
        if seconds >= WARN_SECONDS:
            logger.warning("the event loop was held", extra={"seconds": round(seconds, 3)})
