"""Exercise 13: how fast a counter grows."""

from collections.abc import Sequence


def increase(readings: Sequence[tuple[float, float]]) -> float:
    """Returns by how much a counter has grown over its readings.

    A counter begins at 0 when its server starts, so a value below the one before it means that the
    server was restarted in between. What was counted after the last reading before the restart is
    lost; what is shown after it has grown from 0.

    Args:
        readings: times in seconds with the counter's values, in the order of time.
    """
    raise NotImplementedError


def rate(readings: Sequence[tuple[float, float]]) -> float | None:
    """Returns the growth per second between the first and the last reading.

    With fewer than two readings nothing is known, which is None and not 0.
    """
    raise NotImplementedError
