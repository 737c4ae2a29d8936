"""Weighted max-min fairness of running places, over sequences alone."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.preemption import Placement, Tenant, choose_placement
from src.engine.scheduling.sequence import Sequence


def create_sequence(tenant: str, weight: int = 1) -> Sequence:
    return Sequence(Request("any", [1], SamplingParams(), tenant=tenant, weight=weight))


def create_running(tenants: str) -> list[Sequence]:
    return [create_sequence(one) for one in tenants]


def choose(running: list[Sequence], waiting: str, *, has_room: bool = False) -> Placement | None:
    return choose_placement(running, [Tenant(one, 1) for one in waiting], has_room=has_room)


def test_a_free_place_goes_to_the_tenant_that_is_next_in_the_queue():
    assert choose(create_running("ab"), "ab", has_room=True) == Placement(Tenant("a", 1))
    assert choose(create_running("ab"), "ba", has_room=True) == Placement(Tenant("b", 1))


def test_a_free_place_does_not_go_to_a_tenant_that_would_lose_it_at_once():
    assert choose(create_running("a"), "ab", has_room=True) == Placement(Tenant("b", 1))
    assert choose(create_running("aab"), "abc", has_room=True) == Placement(Tenant("c", 1))
    assert choose(create_running("aa"), "a", has_room=True) == Placement(Tenant("a", 1))


def test_a_tenant_alone_is_never_preempted():
    assert choose(create_running("aaaa"), "a") is None


def test_the_newest_sequence_of_the_tenant_with_the_largest_share_is_preempted():
    running = create_running("abababba")
    placement = choose([*running, create_sequence("b")], "c")
    assert placement is not None
    assert placement.tenant.name == "c"
    assert placement.victim is not None
    assert placement.victim.request.tenant == "b"
    running = create_running("aaba")
    assert choose(running, "c") == Placement(Tenant("c", 1), running[-1])


def test_no_place_is_taken_that_leaves_its_owner_with_less_than_the_taker():
    assert choose(create_running("ab"), "c") is None
    assert choose(create_running("aab"), "b") is None
    assert choose(create_running("aaab"), "b") is not None


def test_a_heavier_tenant_gets_more_places():
    heavy = [create_sequence("heavy", 3) for _ in range(3)]
    light = create_running("l")
    assert choose([*heavy, *light], "l") is None
    waiting = [Tenant("heavy", 3)]
    running = [*heavy[:1], *create_running("lll")]
    placement = choose_placement(running, waiting, has_room=False)
    assert placement == Placement(Tenant("heavy", 3), running[-1])


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=40),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1),
    st.fixed_dictionaries({one: st.integers(1, 9) for one in "abcde"}),
    st.integers(0, 8),
)
def test_transfers_end_in_a_fair_allocation(tenants, num_waiting, weights, num_free):
    """Afterwards no waiting tenant can take a place without having more than its owner keeps."""
    running = [create_sequence(one, weights[one]) for one in tenants]
    oldest = {one.request.tenant: one for one in reversed(running)}
    waiting = Counter(num_waiting)
    order = deque(sorted(waiting))
    admitted: list[Sequence] = []
    places = len(running) + num_free
    for _ in range(len(running) + places):
        queue = [Tenant(one, weights[one]) for one in order if waiting[one]]
        if not queue:
            break
        placement = choose_placement(running, queue, has_room=len(running) < places)
        if placement is None:
            break
        if placement.victim is not None:
            running.remove(placement.victim)
            waiting[placement.victim.request.tenant] += 1
        taker = placement.tenant.name
        admitted.append(create_sequence(taker, weights[taker]))
        running.append(admitted[-1])
        waiting[taker] -= 1
        order.rotate(-1)
    assert len(running) <= places
    assert len(running) == places or not waiting.total()
    held = Counter(one.request.tenant for one in running)
    for one in (name for name in waiting if waiting[name] and len(running) == places):
        for other in held:
            assert (held[other] - 1) * weights[one] < (held[one] + 1) * weights[other]
    assert all(one in running for one in oldest.values())
    assert all(one in running for one in admitted)
