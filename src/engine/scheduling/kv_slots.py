"""Which sequence owns which slot of the KV cache, and whose prefix can be used again. No torch.

A slot holds the keys and values of one sequence. When the sequence ends its slot becomes free and
keeps what it holds until it is needed, least recently used first. So a prompt that begins as an
earlier one did (a system prompt, the next turn of a chat) finds that beginning computed.
"""

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Slot:
    """One slot: which tokens it holds keys and values for.

    Args:
        index: in the KV cache's tensors.
        token_ids: of the sequence that has or had it; shared with the owner, who appends to it.
        num_valid: the first so many of them are in the cache.
        salt: only sequences with the same salt may use them.
        is_dirty: it may hold values that are no numbers, and has to be cleared before it is used.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    num_valid: int = 0
    salt: str = ""
    is_dirty: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot for a new sequence.

    Args:
        slot: now owned by the sequence.
        num_cached: its first tokens that need no computing.
        copy_from: the slot whose first `num_cached` keys and values are to be copied first, if any.
    """

    slot: Slot
    num_cached: int
    copy_from: Slot | None = None

    @property
    def needs_work(self) -> bool:
        """Whether the slot has to be cleared or filled before the sequence is computed."""
        return self.slot.is_dirty or self.copy_from is not None


class SlotPool:
    """Hands out slots and remembers what freed ones hold.

    Args:
        num_slots: sequences.
        capacity: tokens in each.
    """

    def __init__(self, num_slots: int, capacity: int) -> None:
        self._capacity = capacity
        self._slots = [Slot(index) for index in range(num_slots)]
        self._free = OrderedDict((slot.index, slot) for slot in self._slots)  # oldest first

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Free slots that hold something of an ended sequence."""
        return sum(slot.num_valid > 0 for slot in self._free.values())

    @property
    def usage(self) -> float:
        """Share of all slots that holds keys and values, of live sequences and of ended ones."""
        return sum(slot.num_valid for slot in self._slots) / (len(self._slots) * self._capacity)

    def acquire(self, token_ids: list[int], salt: str = "", *, reuse: bool = True) -> Lease:
        """Takes a free slot for these tokens, with as much of their prefix as is held anywhere.

        The last token is always computed, as its logits are needed. A free slot is taken over in
        place when most of what it holds is the common prefix; otherwise the prefix is copied, and
        the other sequence's stays for its next turn.

        Args:
            token_ids: of the new sequence; the caller's list, which grows.
            salt: prefixes of other salts are not seen.
            reuse: False computes all anew.
        """
        best, num_cached = self._longest_prefix(token_ids, salt) if reuse else (None, 0)
        if best is not None and best.index in self._free and 2 * num_cached >= best.num_valid:
            del self._free[best.index]
            return self._lease(best, token_ids, salt, num_cached, copy_from=None)
        _, slot = self._free.popitem(last=False)
        if best is slot:  # it holds the prefix itself
            return self._lease(slot, token_ids, salt, num_cached, copy_from=None)
        return self._lease(slot, token_ids, salt, num_cached, best if num_cached else None)

    def extend(self, slot: Slot) -> Lease | None:
        """Looks again for what is held of a taken slot's prefix; None: no more than it has."""
        best, num_cached = self._longest_prefix(slot.token_ids, slot.salt)
        if best is None or num_cached <= slot.num_valid:
            return None
        return self._lease(slot, slot.token_ids, slot.salt, num_cached, best)

    def release(self, slot: Slot) -> None:
        """Frees a slot; what it holds stays for others until it is needed."""
        assert slot.index not in self._free
        self._free[slot.index] = slot

    def discard(self, slot: Slot) -> None:
        """Frees the slot of a sequence that failed; nothing that it holds can be used."""
        slot.num_valid, slot.is_dirty = 0, True
        self._free[slot.index] = slot

    def lose(self, indices: set[int]) -> None:
        """Takes note that nothing that these slots hold can be used."""
        for index in indices:
            self._slots[index].num_valid = 0

    def _longest_prefix(self, token_ids: list[int], salt: str) -> tuple[Slot | None, int]:
        best, length = None, 0
        for slot in self._slots:
            if slot.salt == salt:
                limit = min(slot.num_valid, len(token_ids) - 1)
                common = common_length(slot.token_ids, token_ids, limit)
                if common > length:
                    best, length = slot, common
        return best, length

    def _lease(
        self, slot: Slot, token_ids: list[int], salt: str, num_cached: int, copy_from: Slot | None
    ) -> Lease:
        slot.token_ids, slot.num_valid, slot.salt = token_ids, num_cached, salt
        return Lease(slot, num_cached, copy_from)


def common_length(held: list[int], wanted: list[int], limit: int) -> int:
    """How many of their first tokens, up to a limit, two lists have in common."""
    limit = min(limit, len(held))
    if held[:limit] == wanted[:limit]:  # one comparison in C, for what is most common
        return limit
    return next(i for i in range(limit) if held[i] != wanted[i])
