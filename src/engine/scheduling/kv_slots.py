"""Slots of the KV cache, with prefix caching: ended sequences leave theirs for reuse. No torch.

A slot holds the keys and values of one sequence. A freed slot keeps them until it is needed; the
least recently used is taken first (LRU). A prompt that begins as an earlier one did (a system
prompt, the next turn of a chat) finds that prefix computed.
"""

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Slot:
    """One slot, and the tokens with keys and values in it.

    Args:
        index: in the KV cache's tensors.
        token_ids: of the current or last owner, which appends to the same list.
        num_valid: number of first tokens with keys and values in the cache.
        salt: only sequences with the same salt may reuse them.
        is_dirty: may contain NaN, and has to be cleared before use.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    num_valid: int = 0
    salt: str = ""
    is_dirty: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot assigned to a sequence.

    Args:
        slot: owned by the sequence from now on.
        num_cached: number of the sequence's first tokens that need not be computed.
        copy_from: slot to copy the keys and values of these tokens from; None if they are in place.
    """

    slot: Slot
    num_cached: int
    copy_from: Slot | None = None

    @property
    def needs_work(self) -> bool:
        """True if the slot has to be cleared or filled before the sequence is computed."""
        return self.slot.is_dirty or self.copy_from is not None


class SlotPool:
    """Assigns slots, and finds prefixes in all of them.

    Args:
        num_slots: number of slots, one for each sequence.
        capacity: maximum number of tokens in each.
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
        """Number of free slots that hold a prefix of an ended sequence."""
        return sum(slot.num_valid > 0 for slot in self._free.values())

    @property
    def usage(self) -> float:
        """Share of all slots that holds keys and values, of live and ended sequences."""
        return sum(slot.num_valid for slot in self._slots) / (len(self._slots) * self._capacity)

    def acquire(self, token_ids: list[int], salt: str = "", *, reuse: bool = True) -> Lease:
        """Assigns a free slot, with the longest prefix of these tokens that any slot holds.

        The last token is never taken from the cache, because its logits are needed. A free slot is
        reused in place if the prefix is at least half of its tokens. Otherwise the prefix is
        copied, and the slot keeps its own for the next turn of its chat.

        Args:
            token_ids: of the new sequence, which appends to this list.
            salt: slots of other salts are not searched.
            reuse: False searches none.
        """
        best, num_cached = self._longest_prefix(token_ids, salt) if reuse else (None, 0)
        if best is not None and best.index in self._free and 2 * num_cached >= best.num_valid:
            del self._free[best.index]
            return self._lease(best, token_ids, salt, num_cached, copy_from=None)
        _, slot = self._free.popitem(last=False)
        if best is slot:
            return self._lease(slot, token_ids, salt, num_cached, copy_from=None)
        return self._lease(slot, token_ids, salt, num_cached, best if num_cached else None)

    def extend(self, slot: Slot) -> Lease | None:
        """Searches a longer prefix for an owned slot; None if no slot holds one."""
        best, num_cached = self._longest_prefix(slot.token_ids, slot.salt)
        if best is None or num_cached <= slot.num_valid:
            return None
        return self._lease(slot, slot.token_ids, slot.salt, num_cached, best)

    def release(self, slot: Slot) -> None:
        """Frees a slot; its contents stay for reuse."""
        assert slot.index not in self._free
        self._free[slot.index] = slot

    def discard(self, slot: Slot) -> None:
        """Frees the slot of a failed sequence; its contents are invalid."""
        slot.num_valid, slot.is_dirty = 0, True
        self._free[slot.index] = slot

    def invalidate(self, indices: set[int]) -> None:
        """Marks the contents of slots as invalid."""
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


def common_length(cached: list[int], token_ids: list[int], limit: int) -> int:
    """Returns the length of the common prefix of two lists, at most `limit`."""
    limit = min(limit, len(cached))
    if cached[:limit] == token_ids[:limit]:  # one comparison in C, for the most common case
        return limit
    return next(i for i in range(limit) if cached[i] != token_ids[i])
