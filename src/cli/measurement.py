"""Traces of requests under load, and quantiles of their times. Standard library alone.

`bench` measures servers with it, and `benchmarks/` whatever else answers requests, also in
environments that have none of this project's dependencies.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trace:
    """Trace of one request; times are seconds since the load began.

    Args:
        sent: time of sending.
        texts: time of each piece of text.
        num_tokens: new tokens by the system's own count.
        ended: time of the end of the answer.
        error: reason of a failure; None without one.
        num_prompt_tokens: tokens of the prompt, likewise; None if it is not counted.
    """

    sent: float
    texts: list[float] = field(default_factory=list)
    num_tokens: int = 0
    ended: float = 0
    error: str | None = None
    num_prompt_tokens: int | None = None

    @property
    def time_to_first_token(self) -> float:
        return self.texts[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Returns the times between tokens."""
        return [later - earlier for earlier, later in itertools.pairwise(self.texts)]


def duration(traces: list[Trace]) -> float:
    """Returns seconds from the first request to the last answer."""
    return max(trace.ended for trace in traces) - min(trace.sent for trace in traces)


def quantile(values: Iterable[float], share: float) -> float:
    """Returns the quantile of the values, interpolated linearly."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return ordered[0] if ordered else float("nan")
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])
