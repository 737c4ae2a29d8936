"""The queue: tenants take turns, and each one's own requests come in the order they arrived in.

Stride scheduling: a tenant's turn moves it on by 1 / weight, and the one that is least far has the
next. Who comes back after a while starts where the others are, so nobody saves up turns.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from src.engine.sequence import Sequence


@dataclass(slots=True)
class _Line:
    """One tenant's requests, and how far it has come."""

    position: float
    weight: int
    sequences: deque[Sequence] = field(default_factory=deque)

    @property
    def load(self) -> float:
        """How much of the queue it takes, for its weight."""
        return len(self.sequences) / self.weight


class WaitingQueue:
    """Sequences that wait for their turn."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}  # of those who wait alone
        self._position = 0.0

    def __len__(self) -> int:
        return sum(len(line.sequences) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        return (one for line in self._lines.values() for one in line.sequences)

    def append(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of its tenant's line."""
        request = sequence.request
        if request.tenant not in self._lines:
            position = self._position + 1 / request.weight
            self._lines[request.tenant] = _Line(position, request.weight)
        self._lines[request.tenant].sequences.append(sequence)

    def pop(self) -> Sequence:
        """Takes out whose turn it is."""
        tenant, line = min(self._lines.items(), key=lambda item: item[1].position)
        sequence = line.sequences.popleft()
        self._position = line.position
        line.position += 1 / sequence.request.weight
        if not line.sequences:
            del self._lines[tenant]
        return sequence

    def newest_of_most(self) -> Sequence:
        """Who came last of the tenant that takes most of the queue."""
        return max(self._lines.values(), key=lambda line: line.load).sequences[-1]

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence whose turn does not come any more."""
        line = self._lines[sequence.request.tenant]
        line.sequences.remove(sequence)
        if not line.sequences:
            del self._lines[sequence.request.tenant]
