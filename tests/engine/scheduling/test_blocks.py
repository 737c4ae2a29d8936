"""Blocks: users are counted, full ones are found by their tokens, the oldest is taken first."""

from hypothesis import given
from hypothesis import strategies as st

from src.engine.scheduling.blocks import Block, BlockPool, find_digests

SIZE = 4


def digests(*token_ids: int, salt: str = "") -> list[bytes]:
    return find_digests(list(token_ids), SIZE, salt, [])


def fill(pool: BlockPool, *token_ids: int) -> list[Block]:
    """Takes the blocks of some tokens and caches the full ones."""
    blocks = pool.allocate(-(-len(token_ids) // SIZE))
    for block, digest in zip(blocks, digests(*token_ids), strict=False):
        pool.cache(block, digest)
    return blocks


def test_full_blocks_are_found_by_their_tokens_and_all_before_them():
    pool = BlockPool(8, SIZE)
    blocks = fill(pool, *range(10))
    assert pool.find(digests(*range(20))) == blocks[:2]
    assert pool.find(digests(*range(4), 99, 99, 99, 99)) == blocks[:1]
    assert pool.find(digests(*range(4, 8))) == []


def test_digests_differ_by_salt_and_continue_known_ones():
    assert digests(*range(8), salt="a") != digests(*range(8), salt="b")
    known = digests(*range(8))
    assert find_digests(list(range(13)), SIZE, "", known) == digests(*range(13))
    assert len(digests(*range(3))) == 0


def test_a_shared_block_is_free_when_its_last_user_has_left():
    pool = BlockPool(4, SIZE)
    blocks = fill(pool, *range(8))
    pool.share(blocks)
    pool.release(blocks)
    assert pool.num_free == 2
    pool.release(blocks)
    assert (pool.num_free, pool.num_cached) == (4, 2)


def test_blocks_without_a_prefix_are_taken_first_then_the_least_recently_used():
    pool = BlockPool(4, SIZE)
    old, new = fill(pool, *range(4)), fill(pool, *range(4, 8))
    for blocks in (old, new):
        pool.release(blocks)
    taken = pool.allocate(3)
    assert old[0] in taken
    assert new[0] not in taken
    assert pool.find(digests(*range(4))) == []
    assert pool.find(digests(*range(4, 8))) == new


def test_the_end_of_a_prefix_is_taken_before_its_beginning():
    pool = BlockPool(3, SIZE)
    blocks = fill(pool, *range(12))
    pool.release(blocks)
    pool.allocate(2)
    assert pool.find(digests(*range(12))) == blocks[:1]


def test_equal_blocks_are_cached_once():
    pool = BlockPool(4, SIZE)
    first, second = fill(pool, *range(4)), fill(pool, *range(4))
    assert pool.find(digests(*range(4))) == first
    pool.release(second)
    assert pool.num_cached == 0
    pool.release(first)
    assert pool.num_cached == 1


def test_blocks_of_a_failed_sequence_are_dirty_and_not_found():
    pool = BlockPool(4, SIZE)
    shared = fill(pool, *range(4))
    pool.share(shared)
    own = pool.allocate(2)
    pool.discard([*shared, *own])
    assert [block.is_dirty for block in (*shared, *own)] == [False, True, True]
    assert pool.find(digests(*range(4))) == shared
    pool.discard(shared)
    assert pool.find(digests(*range(4))) == []
    assert pool.num_free == 4


@given(st.lists(st.lists(st.integers(0, 1), max_size=20), min_size=2, max_size=20))
def test_equal_digests_mean_equal_prefixes(texts):
    prefixes: dict[bytes, list[int]] = {}
    for text in texts:
        for number, digest in enumerate(digests(*text)):
            prefix = text[: SIZE * (number + 1)]
            assert prefixes.setdefault(digest, prefix) == prefix
