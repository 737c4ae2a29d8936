"""Priority classes: which waiting sequences come first, and background work. No torch.

A tenant's interactive requests precede its default ones. Waiting makes up for the lower class: it
counts as `AGEING_SECONDS` of waiting.

Batch requests are background work of all tenants: they get places and blocks that nothing else
waits for, and lose them to anything else that does. After `BACKGROUND_SECONDS` in the queue a
sequence leaves the background for good, so that it takes its tenant's turns.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from src.engine.request import Priority
from src.engine.scheduling.fair_queue import FairQueue
from src.engine.scheduling.preemption import Tenant
from src.engine.scheduling.sequence import Sequence

BACKGROUND_SECONDS = 20.0

MAX_LEFT_OUT = 7
"""Steps in a row without background sequences; they take part in the next one."""


class WaitingQueue:
    """A fair queue of the foreground, and one of the background."""

    def __init__(self) -> None:
        self._foreground, self._background = FairQueue(), FairQueue()

    def __len__(self) -> int:
        return len(self._foreground) + len(self._background)

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self._foreground, self._background)

    def _queue(self, sequence: Sequence) -> FairQueue:
        return self._background if sequence.in_background else self._foreground

    def tenants(self, is_ready: Callable[[Sequence], bool]) -> list[Tenant]:
        """Returns the tenants with a sequence that may be admitted, the next one first.

        These are tenants of the background only if there are no others.
        """
        return self._foreground.tenants(is_ready) or self._background.tenants(is_ready)

    def first(self, tenant: Tenant, is_ready: Callable[[Sequence], bool]) -> Sequence:
        """Returns a tenant's first sequence that may be admitted.

        Args:
            tenant: one of `tenants`.
            is_ready: the condition.
        """
        queue = self._background if tenant.in_background else self._foreground
        return queue.first(tenant.name, is_ready)

    def append(self, sequence: Sequence) -> None:
        """Adds a new sequence."""
        sequence.in_background = sequence.request.priority is Priority.BATCH
        self._queue(sequence).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Adds a preempted sequence before the others of its tenant, and takes the turn back."""
        self._queue(sequence).put_back(sequence)

    def pop(self, sequence: Sequence) -> None:
        """Removes a sequence for its admission."""
        self._queue(sequence).pop(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Removes a sequence, if it is in the queue."""
        self._queue(sequence).discard(sequence)

    def newest_of_heaviest(self) -> Sequence | None:
        """Returns the sequence that gives way in a full queue, if any; see `FairQueue`."""
        return self._background.newest_of_heaviest() or self._foreground.newest_of_heaviest()

    def stop_deadline(self, sequence: Sequence) -> None:
        """Exempts an admitted sequence, and all others of its request, from the deadline."""
        self._foreground.stop_deadline(sequence)
        self._background.stop_deadline(sequence)

    def age(self, now: float) -> None:
        """Moves sequences that have waited for long out of the background."""
        if not self._background:
            return
        latest = now - BACKGROUND_SECONDS
        for one in [one for one in self._background if one.waits_since < latest]:
            self._background.discard(one)
            one.in_background = False
            self._foreground.append(one)


class Recess:
    """Leaves background sequences out of steps in which others wait for their first tokens."""

    def __init__(self) -> None:
        self._num_left_out = 0

    def present(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Returns the sequences that take part in the next step, in the same order."""
        everything = list(sequences)
        foreground = [one for one in everything if not one.in_background]
        is_awaited = any(not one.num_generated for one in foreground)
        if len(foreground) == len(everything) or not is_awaited:
            return everything
        if self._num_left_out == MAX_LEFT_OUT:
            self._num_left_out = 0
            return everything
        self._num_left_out += 1
        return foreground
