"""Priority classes: interactive requests first, batch requests in what the others leave."""

import time

from src.engine.request import FinishReason, Priority
from src.engine.scheduling.fair_queue import AGEING_SECONDS
from src.engine.scheduling.waiting_queue import BACKGROUND_SECONDS, MAX_LEFT_OUT
from tests.support.scheduling import MAX_STEPS, Simulation

BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def run(simulation: Simulation) -> list[str]:
    """Runs all requests to their ends; returns their names in the order of their first tokens."""
    for _ in range(MAX_STEPS):
        if not simulation.scheduler.num_running + simulation.scheduler.num_waiting:
            break
        simulation.step()
    return list(simulation.outputs)


def test_a_key_s_interactive_requests_come_before_its_others():
    simulation = Simulation(max_num_seqs=1)
    simulation.add("first", max_tokens=1)
    simulation.add("second", max_tokens=1)
    simulation.add("urgent", priority=INTERACTIVE, max_tokens=1)
    simulation.add("urgent too", priority=INTERACTIVE, max_tokens=1)
    assert run(simulation) == ["urgent", "urgent too", "first", "second"]


def test_waiting_makes_up_for_the_class():
    simulation, now = Simulation(max_num_seqs=1), time.monotonic()
    simulation.add("old", arrived_at=now - AGEING_SECONDS - 1, max_tokens=1)
    simulation.add("new", arrived_at=now, max_tokens=1)
    simulation.add("urgent", arrived_at=now, priority=INTERACTIVE, max_tokens=1)
    assert run(simulation) == ["old", "urgent", "new"]


def test_an_interactive_request_takes_no_turn_of_another_key():
    simulation = Simulation(max_num_seqs=1)
    for number in range(3):
        simulation.add(f"a{number}", tenant="a", priority=INTERACTIVE, max_tokens=1)
        simulation.add(f"b{number}", tenant="b", max_tokens=1)
    assert run(simulation) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_batch_requests_wait_for_all_others_of_all_keys():
    simulation = Simulation(max_num_seqs=1)
    for number in range(3):
        simulation.add(f"batch {number}", tenant="a", priority=BATCH, max_tokens=1)
    for number in range(3):
        simulation.add(f"default {number}", tenant="b", max_tokens=1)
    assert run(simulation) == [f"{kind} {n}" for kind in ("default", "batch") for n in range(3)]


def test_a_running_batch_request_loses_its_place_even_to_its_own_key_and_goes_on_later():
    simulation = Simulation(budget=64)
    for number in range(6):
        simulation.add(f"batch {number}", priority=BATCH, max_tokens=9)
    simulation.step()
    simulation.add("chat", max_tokens=3)
    simulation.add("chat too", max_tokens=3)
    assert set(simulation.step()) == {"chat", "chat too"}
    assert set(simulation.step()) == {"chat", "chat too", "batch 0", "batch 1"}
    run(simulation)
    for number in range(6):
        outputs = simulation.outputs[f"batch {number}"]
        assert sum(len(output.new_token_ids) for output in outputs) == 9
        assert outputs[-1].finish_reason is FinishReason.LENGTH


def test_batch_requests_give_their_blocks_to_others_that_wait():
    simulation = Simulation(budget=64, num_blocks=10)
    simulation.add("batch", 20, priority=BATCH, max_tokens=20)
    simulation.step()
    simulation.add("chat", 20, max_tokens=20)
    assert set(simulation.step()) == {"chat"}
    run(simulation)
    assert simulation.num_preempted == 1
    assert simulation.reason("chat") is simulation.reason("batch") is FinishReason.LENGTH


def test_batch_requests_give_their_blocks_to_others_that_grow():
    simulation = Simulation(budget=64, num_blocks=10)
    simulation.add("older batch", 4, priority=BATCH, max_tokens=30)
    simulation.step()
    simulation.add("growing chat", 4, max_tokens=30)
    run(simulation)
    assert simulation.num_preempted
    assert simulation.num_computed["growing chat"] < 34 < simulation.num_computed["older batch"]
    assert simulation.reason("older batch") is FinishReason.LENGTH


def test_batch_requests_sit_out_while_another_one_waits_for_its_first_token():
    simulation = Simulation(budget=8)
    simulation.add("batch", priority=BATCH, max_tokens=30)
    simulation.step()
    simulation.step()
    simulation.add("chat", 24, max_tokens=3)
    steps = [simulation.step() for _ in range(4)]
    assert steps[:3] == [{"chat": 8}] * 3
    assert steps[3] == {"chat": 1, "batch": 1}


def test_batch_requests_take_part_in_one_step_of_eight_however_many_prompts_come():
    simulation = Simulation(budget=8, max_num_seqs=8)
    simulation.add("batch", priority=BATCH, max_tokens=30)
    simulation.step()
    simulation.add("long", 4 * MAX_LEFT_OUT * 8, max_tokens=1)
    steps = ["batch" in simulation.step() for _ in range(2 * (MAX_LEFT_OUT + 1))]
    assert steps == ([False] * MAX_LEFT_OUT + [True]) * 2


def test_a_batch_request_that_has_waited_for_long_takes_its_key_s_turns():
    simulation, now = Simulation(max_num_seqs=1), time.monotonic()
    old = now - BACKGROUND_SECONDS - 1
    simulation.add("running", tenant="b", max_tokens=1)
    simulation.step()
    for number in range(3):
        simulation.add(f"b{number}", tenant="b", max_tokens=1)
    simulation.add("new", tenant="a", priority=BATCH, max_tokens=1)
    simulation.add("aged", tenant="a", priority=BATCH, arrived_at=old, max_tokens=1)
    simulation.scheduler.expire()
    assert run(simulation) == ["running", "b0", "aged", "b1", "b2", "new"]


def test_a_batch_request_is_the_first_to_make_room_in_a_full_queue():
    simulation = Simulation(max_num_seqs=1, max_queue_size=2)
    simulation.add("running", max_tokens=1)
    simulation.step()
    simulation.add("batch", tenant="b", priority=BATCH)
    for number in range(3):
        simulation.add(f"chat {number}", max_tokens=1)
    (output,) = simulation.scheduler.expire()[:1]
    assert output.request_id == "batch"
    assert output.finish_reason is FinishReason.DISPLACED
