"""Order of the queue: tenants take turns; preempted sequences are first in their tenant's queue."""

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.fair_queue import FairQueue
from src.engine.scheduling.sequence import Sequence


def create_sequence(name: str, tenant: str, weight: int = 1) -> Sequence:
    return Sequence(Request(name, [1], SamplingParams(), tenant=tenant, weight=weight))


def create_queue(num_each: int, *tenants: str) -> FairQueue:
    queue = FairQueue()
    for number in range(num_each):
        for tenant in tenants:
            queue.append(create_sequence(f"{tenant}{number}", tenant))
    return queue


def take(queue: FairQueue, count: int) -> list[str]:
    """Pops sequences in the queue's order; returns their names."""
    return [pop(queue, queue.tenants(is_ready)[0].name).request.request_id for _ in range(count)]


def pop(queue: FairQueue, tenant: str) -> Sequence:
    """Pops a tenant's first sequence."""
    sequence = queue.first(tenant, is_ready)
    queue.pop(sequence)
    return sequence


def is_ready(sequence: Sequence) -> bool:
    """Returns False for sequences that wait for a prefix."""
    return sequence.awaited is None


def test_a_sequence_that_is_not_ready_is_passed_over_with_its_tenant():
    queue = create_queue(2, "a", "b")
    for one in queue:
        if one.request.request_id in {"a0", "b0", "b1"}:
            one.awaited = b"digest"
    assert take(queue, 1) == ["a1"]
    assert queue.tenants(is_ready) == []
    for one in queue:
        one.awaited = None
    assert take(queue, 3) == ["b0", "a0", "b1"]


def test_a_tenant_that_is_passed_over_does_not_save_up_turns():
    queue = create_queue(9, "a", "b")
    for _ in range(5):
        pop(queue, "b")
    assert take(queue, 6) == ["a0", "a1", "b5", "a2", "b6", "a3"]


def test_a_preempted_sequence_comes_first_and_its_turn_does_not_count():
    queue = create_queue(3, "a", "b")
    first, second = pop(queue, "a"), pop(queue, "b")
    queue.put_back(first)
    assert take(queue, 4) == ["a0", "a1", "b1", "a2"]
    queue.put_back(second)
    assert take(queue, 2) == ["b0", "b2"]
    assert len(queue) == 0


def test_preempted_sequences_keep_the_order_of_their_admission():
    queue = create_queue(4, "a")
    admitted = [pop(queue, "a") for _ in range(3)]
    for sequence in reversed(admitted):  # the newest is preempted first
        queue.put_back(sequence)
    assert take(queue, 4) == ["a0", "a1", "a2", "a3"]


def test_the_newest_of_the_heaviest_tenant_was_never_admitted():
    queue = create_queue(2, "a", "b")
    for one in list(queue):
        if one.request.tenant == "a":
            one.num_preemptions = 1
    assert queue.newest_of_heaviest().request.request_id == "b1"
    queue.discard(queue.newest_of_heaviest())
    queue.discard(queue.newest_of_heaviest())
    assert queue.newest_of_heaviest() is None
    assert len(queue) == 2
