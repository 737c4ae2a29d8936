"""The scheduler's one rule, over its own data alone: no model, no torch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.engine.request import FinishReason, Request
from src.engine.sampler import SampledToken
from src.engine.sampling_params import SamplingParams
from src.engine.scheduler import Scheduler
from src.engine.sequence import ScheduledSequence, SequenceResult
from src.engine.slots import SlotPool

EOS = 0
CAPACITY = 128


def create_scheduler(num_slots: int = 4, budget: int = 8, max_num_seqs: int = 4) -> Scheduler:
    return Scheduler(SlotPool(num_slots, CAPACITY), max_num_seqs, budget, [EOS])


def create_request(request_id: str, num_tokens: int = 3, max_tokens: int = 4) -> Request:
    token_ids = [1 + (hash(request_id) + i) % 50 for i in range(num_tokens)]
    return Request(request_id, token_ids, SamplingParams(max_tokens=max_tokens))


def step(scheduler: Scheduler, token_id: int = 7) -> dict[str, int]:
    """Runs a step whose samples are all the same; returns each request's number of tokens."""
    output = scheduler.schedule()
    counts = {one.sequence.request.request_id: one.num_tokens for one in output.scheduled}
    scheduler.update(output.scheduled, [result(one, token_id) for one in output.scheduled])
    return counts


def result(one: ScheduledSequence, token_id: int) -> SequenceResult:
    return SequenceResult(SampledToken(token_id, None) if one.samples else None)


def test_a_long_prompt_is_computed_in_chunks_within_the_budget():
    scheduler = create_scheduler(budget=8)
    scheduler.add(create_request("long", num_tokens=20))
    assert [step(scheduler)["long"] for _ in range(4)] == [8, 8, 4, 1]


def test_streams_go_on_while_a_long_prompt_is_computed():
    scheduler = create_scheduler(budget=8)
    scheduler.add(create_request("a", num_tokens=2, max_tokens=10))
    scheduler.add(create_request("b", num_tokens=2, max_tokens=10))
    step(scheduler)
    scheduler.add(create_request("long", num_tokens=30))
    for _ in range(4):
        assert step(scheduler) == {"a": 1, "b": 1, "long": 6}


def test_requests_are_admitted_in_the_order_they_came():
    scheduler = create_scheduler(num_slots=2, max_num_seqs=2)
    for name in "abc":
        scheduler.add(create_request(name, max_tokens=2))
    assert set(step(scheduler)) == {"a", "b"}
    assert scheduler.num_waiting == 1
    step(scheduler)
    assert set(step(scheduler)) == {"c"}


def test_an_end_token_ends_a_sequence_and_frees_its_slot():
    pool = SlotPool(1, CAPACITY)
    scheduler = Scheduler(pool, 1, 8, [EOS])
    scheduler.add(create_request("a"))
    step(scheduler, token_id=EOS)
    assert (scheduler.num_running, pool.num_free) == (0, 1)


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_an_abort_frees_whatever_the_request_has(num_steps):
    pool = SlotPool(1, CAPACITY)
    scheduler = Scheduler(pool, 1, 8, [EOS])
    scheduler.add(create_request("a", num_tokens=10))
    for _ in range(num_steps):
        step(scheduler)
    output = scheduler.abort("a")
    assert output is not None
    assert output.finish_reason is FinishReason.ABORT
    assert scheduler.abort("a") is None
    assert (scheduler.num_running, scheduler.num_waiting, pool.num_free) == (0, 0, 1)


def test_the_next_turn_of_a_chat_finds_its_beginning_computed():
    scheduler = create_scheduler(budget=64)
    first = Request("first", list(range(1, 21)), SamplingParams(max_tokens=1))
    scheduler.add(first)
    assert step(scheduler) == {"first": 20}
    scheduler.add(Request("second", list(range(1, 31)), SamplingParams(max_tokens=1)))
    assert step(scheduler) == {"second": 10}


def test_the_same_prompt_again_computes_its_last_token_only():
    scheduler = create_scheduler(budget=64)
    for _ in range(2):
        scheduler.add(Request("a", list(range(1, 21)), SamplingParams(max_tokens=1)))
        counts = step(scheduler)
    assert counts == {"a": 1}


def test_a_shared_beginning_is_copied_and_leaves_the_other_conversation_whole():
    pool = SlotPool(2, CAPACITY)
    long = pool.acquire(list(range(40)))
    long.slot.num_valid = 40
    pool.release(long.slot)
    other = pool.acquire([*range(10), 99, 98])  # shares less than half of what is held
    assert (other.num_cached, other.copy_from) == (10, long.slot)
    pool.release(other.slot)
    again = pool.acquire(list(range(50)))
    assert (again.slot, again.num_cached, again.copy_from) == (long.slot, 40, None)


def test_no_prefix_is_shared_between_salts():
    pool = SlotPool(2, CAPACITY)
    lease = pool.acquire(list(range(40)), salt="one")
    lease.slot.num_valid = 40
    pool.release(lease.slot)
    assert pool.acquire(list(range(50)), salt="two").num_cached == 0
    assert pool.acquire(list(range(50)), salt="one").num_cached in (0, 40)


@given(data=st.data())
def test_any_schedule_keeps_its_promises(data):
    num_slots = data.draw(st.integers(1, 4))
    budget = data.draw(st.integers(num_slots, 12))
    pool = SlotPool(num_slots, CAPACITY)
    scheduler = Scheduler(pool, num_slots, budget, [EOS])
    live: set[str] = set()
    for number in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["add", "step", "step", "abort"]))
        if action == "add":
            request = create_request(
                str(number), data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
            )
            scheduler.add(request)
            live.add(request.request_id)
        elif action == "abort" and live:
            name = data.draw(st.sampled_from(sorted(live)))
            assert scheduler.abort(name) is not None
            live.remove(name)
        elif action == "step":
            output = scheduler.schedule()
            assert sum(one.num_tokens for one in output.scheduled) <= budget
            assert all(one.num_tokens > 0 for one in output.scheduled)
            slots = [one.sequence.slot.index for one in output.scheduled]
            assert len(slots) == len(set(slots))
            results = [result(one, data.draw(st.integers(0, 9))) for one in output.scheduled]
            for one in scheduler.update(output.scheduled, results):
                if one.finish_reason:
                    live.remove(one.request_id)
        assert scheduler.num_running + scheduler.num_waiting == len(live)
        assert pool.num_free == num_slots - scheduler.num_running
