"""An answer to exercise 13."""

from collections.abc import Sequence
from itertools import pairwise


def increase(readings: Sequence[tuple[float, float]]) -> float:
    """Returns by how much a counter has grown over its readings."""
    values = [value for _, value in readings]
    return sum(
        (later - earlier if later >= earlier else later) for earlier, later in pairwise(values)
    )


def rate(readings: Sequence[tuple[float, float]]) -> float | None:
    """Returns the growth per second between the first and the last reading."""
    if len(readings) < 2:
        return None
    return increase(readings) / (readings[-1][0] - readings[0][0])
