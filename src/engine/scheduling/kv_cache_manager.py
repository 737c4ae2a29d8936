"""`KVCacheManager`: gives sequences their room in the KV cache. No torch.

The scheduler asks this class alone about the cache; slots are how it lays out the cache today.
"""

from src.engine.scheduling.kv_slots import Lease, SlotPool
from src.engine.scheduling.prefix_leaders import follow_leader, is_waiting
from src.engine.scheduling.sequence import Sequence


class KVCacheManager:
    """Assigns slots to sequences, and collects the work that has to precede the next step.

    Args:
        slots: one for each running sequence, or more.
    """

    def __init__(self, slots: SlotPool) -> None:
        self._slots = slots
        self._leases: list[tuple[Sequence, Lease]] = []

    @property
    def num_cached(self) -> int:
        """Number of ended sequences with keys and values in the cache."""
        return self._slots.num_cached

    @property
    def usage(self) -> float:
        """Share of the cache that holds keys and values, in [0, 1]."""
        return self._slots.usage

    def allocate(self, sequence: Sequence, running: list[Sequence]) -> None:
        """Gives a sequence a slot, with the longest cached prefix of its tokens.

        If a running sequence is computing a longer one it becomes the leader.
        """
        reuses = not sequence.needs_every_position
        lease = self._slots.acquire(sequence.token_ids, sequence.request.tenant, reuse=reuses)
        sequence.slot = lease.slot
        if lease.needs_work:
            self._leases.append((sequence, lease))
        sequence.set_cached(lease.num_cached)
        if reuses:
            follow_leader(sequence, running)

    def leave_leader(self, sequence: Sequence, running: list[Sequence]) -> None:
        """Copies the leader's prefix once it is computed, or what is there if the leader ended."""
        if is_waiting(sequence, running):
            return
        sequence.leader = None
        assert sequence.slot is not None
        lease = self._slots.extend(sequence.slot)
        if lease is not None:
            self._leases.append((sequence, lease))
            sequence.set_cached(lease.num_cached)

    def take_leases(self) -> list[tuple[Sequence, Lease]]:
        """Returns the slots to clear or fill before the next step, in this order."""
        leases, self._leases = self._leases, []
        return leases

    def free(self, sequence: Sequence) -> None:
        """Frees the slot of an ended or preempted sequence; its prefix can be used again."""
        assert sequence.slot is not None
        self._slots.release(sequence.slot)
        sequence.slot = None

    def discard(self, sequence: Sequence) -> None:
        """Frees the slot of a failed sequence, if it has one; nothing in it can be used."""
        if sequence.slot is not None:
            self._slots.discard(sequence.slot)
            sequence.slot = None

    def invalidate(self, slots: set[int], running: list[Sequence]) -> None:
        """Marks slots as empty; the sequences that own them start anew.

        Args:
            slots: by index.
            running: all sequences that have slots.
        """
        self._slots.invalidate(slots)
        for sequence in running:
            if sequence.slot is not None and sequence.slot.index in slots:
                sequence.set_cached(0)
