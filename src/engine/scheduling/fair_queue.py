"""The queue, fair between tenants by stride scheduling (Waldspurger & Weihl 1995). No torch.

Each tenant has a position. The tenant with the lowest one is next, and moves on by 1 / weight. Its
own requests are in order of arrival, where a lower class counts as a later arrival. A tenant that
comes back after a while starts at the position of the others, so unused turns are not saved up.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from src.engine.request import Request
from src.engine.scheduling.preemption import Tenant
from src.engine.scheduling.sequence import Sequence

AGEING_SECONDS = 10.0
"""Time by which a request may pass those of the next higher class."""


@dataclass(slots=True)
class _TenantQueue:
    """Waiting sequences of one tenant, and its position."""

    position: float
    weight: int
    sequences: deque[Sequence] = field(default_factory=deque)

    @property
    def load(self) -> float:
        """Number of waiting sequences for the tenant's weight."""
        return len(self.sequences) / self.weight

    @property
    def newest(self) -> Sequence | None:
        """The last sequence, if it was never admitted; preempted ones are all before it."""
        last = self.sequences[-1]
        return None if last.num_preemptions else last


class FairQueue:
    """Sequences that wait for their first place, or for another one after a preemption."""

    def __init__(self) -> None:
        self._queues: dict[str, _TenantQueue] = {}  # by tenant; none is empty
        self._position = 0.0

    def __len__(self) -> int:
        return sum(len(queue.sequences) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence]:
        return (one for queue in self._queues.values() for one in queue.sequences)

    def tenants(self, is_ready: Callable[[Sequence], bool]) -> list[Tenant]:
        """Returns the tenants with a sequence that may be admitted, the next one first."""
        queues = sorted(self._queues.items(), key=lambda item: item[1].position)
        return [
            Tenant(name, queue.weight, queue.sequences[0].in_background)
            for name, queue in queues
            if any(is_ready(one) for one in queue.sequences)
        ]

    def first(self, tenant: str, is_ready: Callable[[Sequence], bool]) -> Sequence:
        """Returns a tenant's first sequence that may be admitted.

        Args:
            tenant: one of `tenants`.
            is_ready: the condition.
        """
        return next(one for one in self._queues[tenant].sequences if is_ready(one))

    def append(self, sequence: Sequence) -> None:
        """Adds a sequence among its tenant's, by class and arrival; preempted ones are first."""
        sequences = self._queue_of(sequence).sequences
        index = len(sequences)
        while index and _is_before(sequence, sequences[index - 1]):
            index -= 1
        sequences.insert(index, sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Adds a preempted sequence before the others of its tenant, and takes the turn back."""
        queue = self._queue_of(sequence)
        queue.position -= 1 / sequence.request.weight
        queue.sequences.appendleft(sequence)

    def _queue_of(self, sequence: Sequence) -> _TenantQueue:
        request = sequence.request
        start = self._position + 1 / request.weight
        return self._queues.setdefault(request.tenant, _TenantQueue(start, request.weight))

    def pop(self, sequence: Sequence) -> None:
        """Removes a sequence for its admission; tenants passed over move up to its position."""
        queue = self._queues[sequence.request.tenant]
        for other in self._queues.values():
            other.position = max(other.position, queue.position)
        self._position = max(self._position, queue.position)
        queue.position += 1 / sequence.request.weight
        self.discard(sequence)

    def newest_of_heaviest(self) -> Sequence | None:
        """Returns the newest sequence of the tenant with the highest weighted load.

        None if all waiting sequences were preempted: these keep their places in the queue.
        """
        queues = [queue for queue in self._queues.values() if queue.newest is not None]
        return max(queues, key=lambda queue: queue.load).newest if queues else None

    def stop_deadline(self, sequence: Sequence) -> None:
        """Exempts an admitted sequence, and all others of its request, from the deadline."""
        queue = self._queues.get(sequence.request.tenant)
        for one in (sequence, *(queue.sequences if queue is not None else ())):
            if one is sequence or one.request.group == sequence.request.group != "":
                one.expires = False

    def discard(self, sequence: Sequence) -> None:
        """Removes a sequence, if it is in the queue."""
        queue = self._queues.get(sequence.request.tenant)
        if queue is not None and sequence in queue.sequences:
            queue.sequences.remove(sequence)
            if not queue.sequences:
                del self._queues[sequence.request.tenant]


def _is_before(new: Sequence, other: Sequence) -> bool:
    """Returns True if a new sequence of the same tenant comes before this one of a lower class."""
    if other.num_preemptions or new.request.priority >= other.request.priority:
        return False
    return _due(new.request) < _due(other.request)


def _due(request: Request) -> float:
    return request.arrived_at + AGEING_SECONDS * request.priority
