"""Slots: each has one owner, and prefixes of ended sequences are found and reused."""

from src.engine.scheduling.kv_slots import Lease, Slot, SlotPool, common_length

CAPACITY = 64


def create_pool(num_slots: int = 2) -> SlotPool:
    return SlotPool(num_slots, CAPACITY)


def fill(pool: SlotPool, token_ids: list[int], salt: str = "", num_valid: int = CAPACITY) -> Slot:
    """Acquires a slot and marks its first `num_valid` tokens as computed."""
    slot = pool.acquire(token_ids, salt).slot
    slot.num_valid = min(len(token_ids), num_valid)
    return slot


def leave(pool: SlotPool, token_ids: list[int], salt: str = "") -> Slot:
    """Fills and releases a slot, like a sequence of these tokens that has ended."""
    slot = fill(pool, token_ids, salt)
    pool.release(slot)
    return slot


def test_each_slot_has_one_owner():
    pool = create_pool(3)
    assert {pool.acquire([number]).slot.index for number in range(3)} == {0, 1, 2}
    assert pool.num_free == 0


def test_the_slot_that_became_free_first_is_taken_first():
    pool = create_pool(3)
    slots = [fill(pool, [number] * 9) for number in range(3)]
    for index in (1, 0, 2):
        pool.release(slots[index])
    assert [pool.acquire([99]).slot.index for _ in range(3)] == [slots[i].index for i in (1, 0, 2)]


def test_a_slot_that_holds_mostly_the_shared_prefix_is_reused_in_place():
    pool = create_pool()
    slot = leave(pool, list(range(40)))
    assert pool.acquire([*range(20), 99]) == Lease(slot, 20, copy_from=None)


def test_a_shared_prefix_is_copied_and_leaves_the_other_conversation_whole():
    pool = create_pool()
    long = leave(pool, list(range(40)))
    lease = pool.acquire([*range(19), 99])
    assert (lease.num_cached, lease.copy_from) == (19, long)
    assert lease.slot is not long
    pool.release(lease.slot)
    assert pool.acquire(list(range(50))) == Lease(long, 40, copy_from=None)


def test_the_last_slot_is_reused_in_place_whatever_it_holds():
    pool = create_pool(1)
    slot = leave(pool, list(range(40)))
    assert pool.acquire([*range(10), 99]) == Lease(slot, 10, copy_from=None)
    assert slot.num_valid == 10


def test_the_last_token_is_always_computed():
    pool = create_pool()
    leave(pool, list(range(10)))
    assert pool.acquire(list(range(10))).num_cached == 9


def test_the_longest_of_several_prefixes_is_used():
    pool = create_pool(4)
    slots = [fill(pool, [*range(num_shared), *[99] * 3]) for num_shared in (5, 12, 8)]
    lease = pool.acquire(list(range(30)))
    assert (lease.num_cached, lease.copy_from) == (12, slots[1])


def test_a_running_sequences_prefix_is_copied_as_far_as_it_is_computed():
    pool = create_pool()
    running = fill(pool, list(range(40)), num_valid=25)
    lease = pool.acquire(list(range(40)))
    assert (lease.num_cached, lease.copy_from) == (25, running)


def test_without_reuse_nothing_is_cached():
    pool = create_pool()
    leave(pool, list(range(40)))
    lease = pool.acquire(list(range(40)), reuse=False)
    assert (lease.num_cached, lease.copy_from, lease.slot.num_valid) == (0, None, 0)


def test_no_prefix_is_shared_between_salts():
    pool = create_pool()
    slot = leave(pool, list(range(40)), salt="one")
    assert pool.acquire(list(range(50)), salt="two").num_cached == 0
    assert pool.acquire(list(range(50)), salt="one") == Lease(slot, 40, copy_from=None)


def test_an_owned_slot_is_extended_by_a_longer_prefix_of_another():
    pool = create_pool()
    leader = fill(pool, list(range(40)), num_valid=10)
    follower = pool.acquire([*range(30), 99]).slot
    assert follower.num_valid == 10
    assert pool.extend(follower) is None
    leader.num_valid = 35
    assert pool.extend(follower) == Lease(follower, 30, copy_from=leader)
    assert follower.num_valid == 30


def test_an_owned_slot_is_not_extended_across_salts():
    pool = create_pool()
    follower = pool.acquire(list(range(40)), salt="one").slot
    fill(pool, list(range(40)), salt="two")
    assert pool.extend(follower) is None


def test_usage_counts_live_and_ended_sequences():
    pool = create_pool(4)
    fill(pool, list(range(10)))
    leave(pool, [99] * 6)
    assert (pool.num_free, pool.num_cached) == (3, 1)
    assert pool.usage == (10 + 6) / (4 * CAPACITY)


def test_the_common_length_ends_at_a_difference_an_end_or_the_limit():
    assert common_length([1, 2, 3], [1, 2, 4], 3) == 2
    assert common_length([1, 2, 3], [1, 2, 3, 4], 9) == 3
    assert common_length([1, 2, 3], [1, 2, 3], 2) == 2
    assert common_length([5], [6], 1) == 0
    assert common_length([], [6], 1) == 0
