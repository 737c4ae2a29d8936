"""Blocks of the paged KV cache, with prefix caching. No torch.

The cache is divided into blocks of a fixed number of tokens (Kwon et al. 2023, "PagedAttention",
arXiv:2309.06180). A sequence owns no contiguous room. It has a list of blocks, and takes another
one when its last one is full. So memory is used by tokens, not by the longest possible sequence.

A full block is found again by the digest of its tokens and of all tokens before them. Sequences
that begin alike use the same blocks, each counted by its users. A block without users keeps its
contents until it is needed; the least recently used is taken first (LRU).
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(slots=True, eq=False)
class Block:
    """One block.

    Args:
        index: in the KV cache's tensors.
        num_users: number of running sequences that use it.
        digest: of its tokens and all before them; None while it cannot be shared.
        is_dirty: may contain NaN, and has to be cleared before use.
    """

    index: int
    num_users: int = 0
    digest: bytes | None = None
    is_dirty: bool = False


class BlockPool:
    """All blocks of the KV cache.

    Args:
        num_blocks: number of blocks.
        block_size: tokens of a block.
        window: tokens that a token sees in any layer, itself included; None: all.

    Attributes:
        num_cached: number of blocks without users that hold a part of a prefix.
    """

    def __init__(self, num_blocks: int, block_size: int, window: int | None = None) -> None:
        self.block_size = block_size
        self.window = window
        self.num_blocks = num_blocks
        # Blocks without users, in the order in which they will be taken.
        self._free = OrderedDict((index, Block(index)) for index in range(num_blocks))
        self._shared: dict[bytes, Block] = {}
        self.num_cached = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens for which there is room."""
        return self.num_blocks * self.block_size

    @property
    def num_free(self) -> int:
        """Number of blocks without users, those with a cached prefix included."""
        return len(self._free)

    def is_cached(self, digest: bytes) -> bool:
        """Checks whether a block of these tokens can be shared."""
        return digest in self._shared

    def find(self, digests: Iterable[bytes]) -> list[Block]:
        """Returns the blocks of the longest cached prefix.

        Args:
            digests: of the sequence's full blocks.
        """
        blocks: list[Block] = []
        for digest in digests:
            block = self._shared.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_free(self, blocks: list[Block]) -> int:
        """Returns how many of these blocks have no users."""
        return sum(not block.num_users for block in blocks)

    def share(self, blocks: list[Block]) -> None:
        """Adds a user to each of some cached blocks."""
        for block in blocks:
            if not block.num_users:
                del self._free[block.index]
                self.num_cached -= 1
            block.num_users += 1

    def allocate(self, num_blocks: int) -> list[Block]:
        """Takes blocks without users; a prefix in them is forgotten.

        Args:
            num_blocks: at most `num_free`.
        """
        blocks = [self._free.popitem(last=False)[1] for _ in range(num_blocks)]
        for block in blocks:
            self._forget(block)
            block.num_users = 1
        return blocks

    def cache(self, block: Block, digest: bytes) -> None:
        """Makes a full block available to other sequences, unless another one already is."""
        if block.digest is None and digest not in self._shared:
            block.digest = digest
            self._shared[digest] = block

    def release(self, blocks: list[Block]) -> None:
        """Removes a user from each block of a sequence.

        The end of a prefix is taken sooner than its beginning, which more sequences may share.
        """
        for block in reversed(blocks):
            block.num_users -= 1
            if not block.num_users:
                self._free[block.index] = block
                if block.digest is None:
                    self._free.move_to_end(block.index, last=False)
                else:
                    self.num_cached += 1

    def discard(self, blocks: list[Block]) -> None:
        """Removes a failed sequence from its blocks; those that it alone used are invalid."""
        for block in blocks:
            if block.num_users == 1:
                self._forget(block)
                block.is_dirty = True
        self.release(blocks)

    def _forget(self, block: Block) -> None:
        if block.digest is not None:
            del self._shared[block.digest]
            block.digest = None
            self.num_cached -= not block.num_users


def find_digests(
    token_ids: list[int], block_size: int, salt: str, digests: list[bytes]
) -> list[bytes]:
    """Returns the digests of the full blocks of some tokens.

    Each digest covers all tokens up to the end of its block, so equal digests mean equal prefixes.
    A cryptographic hash rules out that a client constructs a prefix that collides with another.

    Args:
        token_ids: of a sequence.
        block_size: tokens of a block.
        salt: sequences of other salts have other digests.
        digests: of the first blocks, if they are known.
    """
    digests = list(digests)
    last = digests[-1] if digests else blake2b(salt.encode(), digest_size=32).digest()
    for start in range(len(digests) * block_size, len(token_ids) - block_size + 1, block_size):
        tokens = array("q", token_ids[start : start + block_size])
        last = blake2b(last + tokens.tobytes(), digest_size=32).digest()
        digests.append(last)
    return digests
