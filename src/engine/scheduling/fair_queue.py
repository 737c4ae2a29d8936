"""The queue: tenants take turns, and each one's own requests come in the order they arrived in.

Stride scheduling: a tenant's turn moves it on by 1 / weight, and the one that is least far has the
next. Who comes back after a while starts where the others are, so nobody saves up turns.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from src.engine.scheduling.fair_share import Tenant
from src.engine.scheduling.sequence import Sequence


@dataclass(slots=True)
class _TenantQueue:
    """One tenant's requests, and how far it has come."""

    position: float
    weight: int
    sequences: deque[Sequence] = field(default_factory=deque)

    @property
    def load(self) -> float:
        """How much of the queue it takes, for its weight."""
        return len(self.sequences) / self.weight

    @property
    def newest(self) -> Sequence | None:
        """The last of those that had no turn yet; preempted ones are all before it."""
        last = self.sequences[-1]
        return None if last.num_preemptions else last


class FairQueue:
    """Sequences that wait for their turn, or for another one after they were preempted."""

    def __init__(self) -> None:
        self._lines: dict[str, _TenantQueue] = {}  # of those who wait alone
        self._position = 0.0

    def __len__(self) -> int:
        return sum(len(line.sequences) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        return (one for line in self._lines.values() for one in line.sequences)

    @property
    def tenants(self) -> list[Tenant]:
        """Tenants that wait, in the order of their turns."""
        lines = sorted(self._lines.items(), key=lambda item: item[1].position)
        return [Tenant(name, line.weight) for name, line in lines]

    def append(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of its tenant's line."""
        weight = sequence.request.weight
        self._line(sequence, self._position + 1 / weight).sequences.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Puts a preempted sequence at the head of its tenant's line; its turn does not count."""
        weight = sequence.request.weight
        line = self._line(sequence, self._position + 1 / weight)
        line.position -= 1 / weight
        line.sequences.appendleft(sequence)

    def _line(self, sequence: Sequence, position: float) -> _TenantQueue:
        request = sequence.request
        return self._lines.setdefault(request.tenant, _TenantQueue(position, request.weight))

    def pop(self, tenant: str) -> Sequence:
        """Takes out the tenant's first; tenants before it, which were passed over, move up to it.

        Args:
            tenant: one of `tenants`.
        """
        line = self._lines[tenant]
        for other in self._lines.values():
            other.position = max(other.position, line.position)
        sequence = line.sequences.popleft()
        self._position = max(self._position, line.position)
        line.position += 1 / sequence.request.weight
        if not line.sequences:
            del self._lines[tenant]
        return sequence

    def newest_of_most(self) -> Sequence | None:
        """The newest of the tenant that takes most of the queue; preempted ones keep their place.

        None if all that wait were preempted.
        """
        lines = [line for line in self._lines.values() if line.newest is not None]
        return max(lines, key=lambda line: line.load).newest if lines else None

    def stop_deadline(self, sequence: Sequence) -> None:
        """Lets no sequence of the same request expire any more, as this one has its turn."""
        line = self._lines.get(sequence.request.tenant)
        for one in (sequence, *(line.sequences if line is not None else ())):
            if one is sequence or one.request.group == sequence.request.group != "":
                one.expires = False

    def discard(self, sequence: Sequence) -> None:
        """Takes out a sequence whose turn does not come any more, if it is there."""
        line = self._lines.get(sequence.request.tenant)
        if line is not None and sequence in line.sequences:
            line.sequences.remove(sequence)
            if not line.sequences:
                del self._lines[sequence.request.tenant]
