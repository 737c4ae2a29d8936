"""`KVCacheManager`: gives sequences their blocks of the KV cache. No torch.

The scheduler asks this class alone about the cache.
"""

from src.engine.scheduling.blocks import Block, BlockPool, find_digests
from src.engine.scheduling.sequence import Sequence


class KVCacheManager:
    """Assigns blocks to sequences, and finds the prefixes that they share.

    A prompt's blocks are assigned at admission, the blocks of new tokens one by one. A prefix that
    is being computed by a running sequence is not computed twice: other sequences wait in the
    queue until it is cached.

    Args:
        pool: all blocks.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._computing: dict[bytes, Sequence] = {}  # digests of blocks that will be cached soon
        self._dirty: list[tuple[Sequence, list[Block]]] = []

    @property
    def num_tokens(self) -> int:
        """Number of tokens for which there is room."""
        return self._pool.num_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Number of tokens of ended sequences that are cached."""
        return self._pool.num_cached * self._pool.block_size

    @property
    def usage(self) -> float:
        """Share of the cache that holds keys and values, in [0, 1]."""
        pool = self._pool
        return (pool.num_blocks - pool.num_free + pool.num_cached) / pool.num_blocks

    def prepare(self, sequence: Sequence) -> None:
        """Computes the digests of a sequence that joins the queue."""
        self._update_digests(sequence)

    def is_computing_for(self, sequence: Sequence) -> bool:
        """Checks whether a waiting sequence, when it had its turn, had to wait for a prefix."""
        return sequence.awaited in self._computing

    def is_ready(self, sequence: Sequence) -> bool:
        """Returns False while a running sequence computes a part of this one's prefix."""
        if sequence.needs_every_position:
            return True
        if not self.is_computing_for(sequence):
            usable = self._usable_digests(sequence)
            sequence.awaited = next((d for d in reversed(usable) if d in self._computing), None)
        return sequence.awaited is None

    def num_blocks(self, sequence: Sequence, num_drafted: int = 0) -> int:
        """Returns the number of blocks of all tokens of a sequence, and of a draft after them."""
        return -(-(len(sequence.token_ids) + num_drafted) // self._pool.block_size)

    def fits(self, sequence: Sequence, num_running: int) -> bool:
        """Checks that a waiting sequence's tokens fit, and one more block for each running one.

        Args:
            sequence: it waits.
            num_running: number of running sequences.
        """
        prefix = self._pool.find(self._usable_digests(sequence))
        num_missing = self.num_blocks(sequence) - len(prefix)
        num_free = self._pool.num_free - self._pool.count_free(prefix)
        return num_missing + num_running <= num_free

    def allocate(self, sequence: Sequence) -> None:
        """Gives an admitted sequence the blocks of its tokens, cached ones as far as possible.

        Args:
            sequence: `fits` has returned True.
        """
        prefix = self._pool.find(self._usable_digests(sequence))
        self._pool.share(prefix)
        sequence.add_blocks(prefix)
        sequence.num_registered_blocks = len(prefix)
        sequence.set_cached(len(prefix) * self._pool.block_size)
        has_grown = self.grow(sequence)
        assert has_grown
        for digest in sequence.digests[len(prefix) :]:
            self._computing.setdefault(digest, sequence)

    def grow(self, sequence: Sequence, num_drafted: int = 0) -> bool:
        """Gives a running sequence the blocks of all its tokens; returns False if none is free.

        Args:
            sequence: it runs.
            num_drafted: number of drafted tokens after its own.
        """
        num_missing = self.num_blocks(sequence, num_drafted) - len(sequence.block_table)
        if num_missing <= 0:
            return True
        if num_missing > self._pool.num_free:
            return False
        blocks = self._pool.allocate(num_missing)
        sequence.add_blocks(blocks)
        if dirty := [block for block in blocks if block.is_dirty]:
            self._dirty.append((sequence, dirty))
        return True

    def take_dirty(self) -> list[tuple[Sequence, list[Block]]]:
        """Returns the blocks to clear before the next step, each sequence with its own."""
        dirty, self._dirty = self._dirty, []
        return dirty

    def register(self, sequence: Sequence) -> None:
        """Makes a sequence's full blocks available to others, once they are computed.

        Blocks that no layer's window reaches any more are given back.
        """
        num_full = sequence.num_computed_tokens // self._pool.block_size
        if num_full > sequence.num_registered_blocks:
            self._update_digests(sequence)
            for number in range(sequence.num_registered_blocks, num_full):
                digest = sequence.digests[number]
                self._pool.cache(sequence.blocks[number - sequence.num_released_blocks], digest)
                if self._computing.get(digest) is sequence:
                    del self._computing[digest]
            sequence.num_registered_blocks = num_full
        if self._pool.window is not None:
            first_seen = max(0, sequence.num_computed_tokens + 1 - self._pool.window)
            self._pool.release(sequence.take_blocks(first_seen // self._pool.block_size))

    def free(self, sequence: Sequence) -> None:
        """Frees the blocks of an ended or preempted sequence; its prefix can be used again."""
        self._stop_computing(sequence)
        self._pool.release(sequence.blocks)
        sequence.drop_blocks()

    def discard(self, sequence: Sequence) -> None:
        """Frees the blocks of a failed sequence, if it has any; no other one gets its values."""
        self._stop_computing(sequence)
        self._pool.discard(sequence.blocks)
        sequence.drop_blocks()

    def _stop_computing(self, sequence: Sequence) -> None:
        for digest in sequence.digests[sequence.num_registered_blocks :]:
            if self._computing.get(digest) is sequence:
                del self._computing[digest]

    def _update_digests(self, sequence: Sequence) -> None:
        salt = sequence.request.tenant + getattr(sequence.request.adapter, "key", "")
        sequence.digests = find_digests(
            sequence.token_ids, self._pool.block_size, salt, sequence.digests
        )

    def _usable_digests(self, sequence: Sequence) -> list[bytes]:
        """Returns the digests of blocks that need not be computed: all but the last token's."""
        if sequence.needs_every_position:
            return []
        return sequence.digests[: (len(sequence.token_ids) - 1) // self._pool.block_size]
