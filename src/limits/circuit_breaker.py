"""Circuit breaker (Nygard, Release It!, 2007) for the Redis of the rate limits.

Libraries (purgatory, aiobreaker, circuitbreaker) let a request through to find out whether the
service is back, and that request may wait in vain. Here probes in the background decide, so the
breaker has two states alone: closed, and open.
"""

import logging

from prometheus_client import Gauge

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """State of the way to Redis: open stops commands, closed lets them through.

    Args:
        storage_up: set to 1 while the breaker is closed, to 0 while it is open.
    """

    def __init__(self, storage_up: Gauge) -> None:
        self._storage_up = storage_up
        self._storage_up.set(1)
        self.is_open = False

    def open(self, problem: object) -> None:
        """Stops commands; the problem is logged once."""
        if not self.is_open:
            logger.error("rate limits are not counted: Redis is unavailable: %s", problem)
        self.is_open = True
        self._storage_up.set(0)

    def close(self) -> None:
        """Lets commands through."""
        if self.is_open:
            logger.warning("rate limits are counted again: Redis answers")
        self.is_open = False
        self._storage_up.set(1)
