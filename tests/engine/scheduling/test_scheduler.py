"""Scheduler, with a simulated model: order, ends, invariants; no torch."""

import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.engine.request import EngineStats, FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.prompt_lookup import DraftLimits
from tests.support.scheduling import (
    EOS,
    TOKEN,
    Simulation,
    check_blocks,
    requests,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("module", ["request", "scheduling.scheduler"])
def test_imports_no_torch(module):
    code = f"import sys, src.engine.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# Chunked prefill and the order of admission.


def test_a_long_prompt_is_computed_in_chunks_within_the_budget():
    simulation = Simulation(budget=8)
    simulation.add("long", 20)
    assert [simulation.step()["long"] for _ in range(4)] == [8, 8, 4, 1]


def test_streams_go_on_while_a_long_prompt_is_computed():
    simulation = Simulation(budget=8)
    simulation.add("a", 2, max_tokens=10)
    simulation.add("b", 2, max_tokens=10)
    simulation.step()
    simulation.add("long", 30)
    for _ in range(4):
        assert simulation.step() == {"a": 1, "b": 1, "long": 6}


def test_a_short_prompt_has_its_first_token_soon_though_a_long_one_is_being_computed():
    simulation = Simulation(budget=16)
    simulation.add("long", 60)
    assert simulation.step() == {"long": 16}
    simulation.add("short", 5)
    assert simulation.step() == {"short": 5}
    assert simulation.outputs["short"]
    assert simulation.step() == {"short": 1, "long": 15}


def test_decodes_wait_in_every_other_short_turn():
    simulation = Simulation(budget=16)
    simulation.add("stream", 2, max_tokens=50)
    simulation.step()
    simulation.add("long", 90)
    simulation.step()
    steps = []
    for number in range(4):
        simulation.add(f"short {number}", 5, max_tokens=1)
        steps += [simulation.step(), simulation.step()]
    assert ["stream" in step for step in steps] == [False, True, True, True] * 2
    assert [f"short {number}" in steps[2 * number] for number in range(4)] == [True] * 4
    assert ["long" in step for step in steps] == [False, True] * 4


def test_the_cycle_of_turns_starts_anew_without_prefills():
    simulation = Simulation(budget=16)
    simulation.add("stream", 2, max_tokens=50)
    simulation.step()
    for number in range(2):
        simulation.add(f"long {number}", 50, max_tokens=1)
        simulation.step()
        simulation.add(f"short {number}", 5, max_tokens=1)
        assert simulation.step() == {f"short {number}": 5}
        while len(simulation.step()) > 1:
            pass


def test_a_long_prompt_has_half_of_every_other_step_however_many_short_ones_come():
    simulation = Simulation(budget=16)
    simulation.add("long", 60)
    for number in range(40):
        simulation.add(f"short {number}", 12, max_tokens=1)
    assert [simulation.step().get("long") for _ in range(8)] == [None, 8] * 4


def test_a_prompt_that_is_as_short_as_others_is_not_left_out():
    simulation = Simulation(budget=16)
    simulation.add("oldest", 12, max_tokens=1)
    simulation.add("newer", 10, max_tokens=1)
    assert simulation.step() == {"oldest": 8, "newer": 8}


def test_of_short_prompts_the_shortest_comes_first():
    simulation = Simulation(budget=16)
    simulation.add("oldest", 60)
    simulation.add("nine", 9)
    simulation.add("eight", 8)
    assert simulation.step() == {"eight": 8, "nine": 8}
    assert simulation.step() == {"eight": 1, "oldest": 14, "nine": 1}


def test_requests_are_admitted_in_the_order_they_came():
    simulation = Simulation(max_num_seqs=2)
    for request_id in "abc":
        simulation.add(request_id, max_tokens=2)
    assert set(simulation.step()) == {"a", "b"}
    assert simulation.scheduler.num_waiting == 1
    simulation.step()
    assert set(simulation.step()) == {"c"}


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_an_abort_frees_the_requests_blocks(num_steps):
    simulation = Simulation(max_num_seqs=1)
    scheduler = simulation.scheduler
    simulation.add("a", 10)
    for _ in range(num_steps):
        simulation.step()
    output = scheduler.abort("a")
    assert output is not None
    assert output.finish_reason is FinishReason.ABORT
    assert scheduler.abort("a") is None
    assert (scheduler.num_running, scheduler.num_waiting, simulation.pool.num_free) == (0, 0, 128)


def test_stats_count_sequences_and_what_the_cache_holds():
    simulation = Simulation(max_num_seqs=2, budget=64)
    assert simulation.scheduler.stats == EngineStats()
    simulation.add("ended", 20, max_tokens=1)
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(0, 0, 20, 5 / 128)
    for request_id in "abc":
        simulation.add(request_id, 10)
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(2, 1, 20, (5 + 3 + 3) / 128)
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(2, 1, 20, (5 + 3 + 3) / 128)


# Ends of sequences.


def test_an_end_token_ends_a_sequence_and_frees_its_blocks():
    simulation = Simulation(max_num_seqs=1)
    assert simulation.run("a", token_id=EOS) == [EOS]
    assert simulation.reason("a") is FinishReason.STOP
    assert (simulation.scheduler.num_running, simulation.pool.num_free) == (0, 128)


def test_a_sequence_ends_at_max_tokens():
    simulation = Simulation()
    assert simulation.run("a", max_tokens=3) == [TOKEN] * 3
    assert simulation.reason("a") is FinishReason.LENGTH


def test_an_end_token_that_is_ignored_ends_nothing():
    simulation = Simulation()
    assert simulation.run("a", token_id=EOS, max_tokens=3, ignore_eos=True) == [EOS] * 3
    assert simulation.reason("a") is FinishReason.LENGTH


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_its_own_request_alone(ignore_eos):
    simulation = Simulation()
    simulation.add("other", max_tokens=4)
    stops = {"stop_token_ids": (5, TOKEN), "ignore_eos": ignore_eos}
    assert simulation.run("a", **stops) == [TOKEN]
    assert simulation.reason("a") is FinishReason.STOP
    assert simulation.reason("other") is FinishReason.LENGTH


@pytest.mark.parametrize("end", [EOS, 5])
def test_no_end_token_comes_before_min_tokens(end):
    simulation = Simulation()
    params = {"min_tokens": 2, "stop_token_ids": (5,)}
    assert simulation.run("a", token_id=end, **params) == [TOKEN, TOKEN, end]
    assert simulation.reason("a") is FinishReason.STOP


def test_a_waiting_request_expires_and_a_running_one_does_not():
    simulation = Simulation(max_num_seqs=1, max_queue_seconds=60)
    scheduler = simulation.scheduler
    long_ago = time.monotonic() - 61
    scheduler.add(Request("running", [1, 2], SamplingParams(max_tokens=2), long_ago))
    simulation.step()
    scheduler.add(Request("late", [1, 2], SamplingParams(), long_ago))
    simulation.add("early")
    scheduler.add(Request("late too", [1, 2], SamplingParams(), long_ago))
    assert scheduler.expire() == [
        RequestOutput("late", [], FinishReason.EXPIRED),
        RequestOutput("late too", [], FinishReason.EXPIRED),
    ]
    assert scheduler.expire() == []
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 1)
    assert [set(simulation.step()) for _ in range(2)] == [{"running"}, {"early"}]


def test_the_tenant_with_the_highest_load_makes_room_in_a_full_queue():
    simulation = Simulation(max_num_seqs=1, max_queue_size=4)
    scheduler = simulation.scheduler
    simulation.add("runs", tenant="flood")
    simulation.step()
    for number in range(4):
        simulation.add(f"flood {number}", tenant="flood")
    assert scheduler.expire() == []
    for number in range(2):
        simulation.add(f"calm {number}", tenant="calm")
    assert scheduler.expire() == [
        RequestOutput("flood 3", [], FinishReason.DISPLACED),
        RequestOutput("flood 2", [], FinishReason.DISPLACED),
    ]
    for number in range(2):
        simulation.add(f"heavy {number}", tenant="heavy", weight=3)
    dropped = {one.request_id for one in scheduler.expire()}
    assert dropped == {"flood 1", "calm 1"}
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 4)


# Drafts.


def test_accepted_drafts_count_towards_max_tokens():
    simulation = Simulation(budget=16, drafts=DraftLimits(7, 16))
    assert simulation.run("a", token_ids=[TOKEN] * 5, max_tokens=12) == [TOKEN] * 12
    assert [len(one.new_token_ids) for one in simulation.outputs["a"]] == [1, 8, 3]
    assert simulation.reason("a") is FinishReason.LENGTH


def test_an_end_token_in_a_draft_ends_the_sequence():
    simulation = Simulation(budget=16, drafts=DraftLimits(7, 16))
    prompt = [EOS] * 5
    tokens = simulation.run("a", token_id=EOS, token_ids=prompt, max_tokens=12, min_tokens=0)
    assert tokens == [EOS]
    tokens = simulation.run("b", token_ids=[TOKEN] * 5, max_tokens=12, stop_token_ids=(TOKEN,))
    assert tokens == [TOKEN]


def test_rejected_drafts_leave_no_trace():
    simulation = Simulation(budget=16, drafts=DraftLimits(7, 16))
    simulation.add("a", token_ids=[8, 9, 5] * 3, max_tokens=12)
    sizes = []
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        sizes.append(simulation.step([8, 9, 5, 6][len(sizes) % 4])["a"])
    tokens = [token for output in simulation.outputs["a"] for token in output.new_token_ids]
    assert tokens[:4] == [8, 9, 9, 5]  # the second 9 was sampled after a draft
    assert len(tokens) == 12
    assert simulation.reason("a") is FinishReason.LENGTH
    assert max(sizes[1:]) > 1


# Invariants.


@settings(deadline=None)
@given(data=st.data())
def test_invariants_hold_for_any_schedule(data):
    max_num_seqs = data.draw(st.integers(1, 6))
    num_blocks = data.draw(st.integers(13, 60))  # the longest request needs 13
    budget = data.draw(st.integers(max_num_seqs, 50))
    drafts = DraftLimits(data.draw(st.integers(0, 9)), data.draw(st.integers(1, budget)))
    window = data.draw(st.none() | st.integers(1, 20))
    simulation = Simulation(budget, max_num_seqs, num_blocks, window, drafts=drafts)
    live: dict[str, Request] = {}
    for number in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["add", "add", "step", "step", "step", "abort"]))
        victim = data.draw(st.sampled_from(sorted(live))) if live else "none"
        if action == "add":
            request = live[str(number)] = data.draw(requests(str(number)))
            simulation.scheduler.add(request)
        elif action == "abort":
            assert (simulation.scheduler.abort(victim) is not None) == bool(live)
            live.pop(victim, None)
        elif live:
            fails = data.draw(st.integers(0, 9)) == 0
            step_and_check(simulation, live, failing=[victim] if fails else [])
    while live:
        step_and_check(simulation, live)
    assert simulation.pool.num_free == num_blocks


def step_and_check(
    simulation: Simulation, live: dict[str, Request], failing: Collection[str] = ()
) -> None:
    """Runs a step; checks that it computes something, and that ended sequences leave nothing."""
    assert simulation.step(EOS, failing)
    for request_id, request in list(live.items()):
        outputs, params = simulation.outputs[request_id], request.sampling_params
        if outputs:
            wanted = request.prompt_token_ids[1:] if params.prompt_logprobs is not None else []
            told = [one.chosen.token_id for one in outputs[0].prompt_logprobs]
            assert told == wanted or outputs[0].finish_reason is FinishReason.ERROR
        if outputs and outputs[-1].finish_reason:
            del live[request_id]
        if outputs and outputs[-1].finish_reason in {FinishReason.STOP, FinishReason.LENGTH}:
            stops_early = params.min_tokens < params.max_tokens and not params.ignore_eos
            expected = min(params.min_tokens + 1, params.max_tokens)
            assert len(outputs) == (expected if stops_early else params.max_tokens)
    scheduler, pool = simulation.scheduler, simulation.pool
    assert scheduler.num_running + scheduler.num_waiting == len(live)
    assert scheduler.num_running <= scheduler.max_num_seqs
    check_blocks(pool, scheduler._running)
    assert 0 <= scheduler.stats.kv_usage <= 1


# Order of the queue.


def admitted(simulation: Simulation) -> list[str]:
    """Runs all requests; returns them in the order of admission, if one runs at a time."""
    order: list[str] = []
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        order += [one for one in simulation.step() if one not in order]
    return order


def test_tenants_take_turns_and_their_requests_keep_their_order():
    simulation = Simulation(max_num_seqs=1)
    for number in range(4):
        simulation.add(f"a{number}", tenant="a", max_tokens=1)
    for number in range(2):
        simulation.add(f"b{number}", tenant="b", max_tokens=1)
    assert admitted(simulation) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_heavier_tenant_has_more_turns():
    simulation = Simulation(max_num_seqs=1)
    for number in range(6):
        simulation.add(f"a{number}", tenant="a", max_tokens=1)
        simulation.add(f"b{number}", tenant="b", weight=2, max_tokens=1)
    order = admitted(simulation)
    assert [sum(one[0] == "b" for one in order[:num]) for num in (3, 6, 9)] == [2, 4, 6]


def test_a_tenant_that_comes_late_has_not_saved_up_turns():
    simulation = Simulation(max_num_seqs=1)
    for number in range(30):
        simulation.add(f"a{number}", tenant="a", max_tokens=1)
    for _ in range(10):
        simulation.step()
    for number in range(3):
        simulation.add(f"b{number}", tenant="b", max_tokens=1)
    order = admitted(simulation)
    assert [order.index(f"b{number}") for number in range(3)] == [1, 3, 5]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_no_sequence_is_lost_in_the_queue(actions):
    simulation = Simulation(max_num_seqs=1)
    waiting: list[str] = []
    for number, (tenant, drops) in enumerate(actions):
        if drops and waiting:
            assert simulation.scheduler.abort(waiting.pop(number % len(waiting)))
        waiting.append(f"{tenant}{number}")
        simulation.add(waiting[-1], tenant=tenant, max_tokens=1)
        assert simulation.scheduler.num_waiting == len(waiting)
    order = admitted(simulation)
    assert sorted(order) == sorted(waiting)
    for tenant in "abc":
        own = [one for one in order if one[0] == tenant]
        assert own == sorted(own, key=lambda one: int(one[1:]))
