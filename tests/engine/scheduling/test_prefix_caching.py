"""Prefixes that ended sequences left in the cache, and prefixes that running ones compute."""

import pytest

from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.scheduler import Scheduler
from src.engine.scheduling.step import SequenceResult
from tests.support.scheduling import (
    BLOCK_SIZE,
    EOS,
    SHARED,
    TOKEN,
    Simulation,
)


def test_the_next_turn_of_a_chat_finds_its_prefix_cached():
    simulation = Simulation(budget=64)
    simulation.add("first", token_ids=SHARED[:20], max_tokens=1)
    assert simulation.step() == {"first": 20}
    simulation.add("second", token_ids=SHARED[:30], max_tokens=1)
    assert simulation.step() == {"second": 10}
    assert simulation.outputs["second"][0].admission.num_cached_tokens == 20


def test_the_next_turn_finds_all_tokens_though_others_came_in_between():
    simulation = Simulation(budget=64)
    simulation.run("first", token_ids=SHARED, max_tokens=5)
    for number in range(10):
        simulation.run(f"other {number}", token_ids=[*SHARED[:20], *range(99, 119)])
    simulation.add("second", token_ids=[*SHARED, *[TOKEN] * 5, 98], max_tokens=1)
    assert simulation.step() == {"second": 2}


def test_the_same_prompt_again_computes_its_last_block_only():
    simulation = Simulation(budget=64)
    for _ in range(2):
        simulation.add("a", token_ids=SHARED, max_tokens=1)
        counts = simulation.step()
    assert counts == {"a": BLOCK_SIZE}


def test_a_prefix_is_shared_by_whole_blocks():
    simulation = Simulation(budget=64)
    simulation.run("first", token_ids=SHARED, max_tokens=1)
    for length, num_cached in ((3, 0), (4, 4), (7, 4), (8, 8)):
        simulation.run(f"{length}", token_ids=[*SHARED[:length], 98, 99], max_tokens=1)
        assert simulation.outputs[f"{length}"][0].admission.num_cached_tokens == num_cached


def test_the_blocks_of_a_running_sequence_are_shared():
    simulation = Simulation(budget=64)
    simulation.add("first", token_ids=SHARED, max_tokens=9)
    simulation.step()
    simulation.add("second", token_ids=[*SHARED[:30], 98, 99])
    assert simulation.step() == {"first": 1, "second": 4}  # the simulation checks the keys
    first, second = simulation.scheduler._running
    assert first.blocks[:7] == second.blocks[:7]
    assert not set(first.blocks[7:]) & set(second.blocks[7:])


def test_blocks_that_no_window_reaches_are_given_back_and_stay_cached():
    simulation = Simulation(budget=64, num_blocks=12, window=8)
    simulation.add("first", token_ids=SHARED[:20], max_tokens=100)
    held = []
    for _ in range(60):
        simulation.step()
        held.append(len(simulation.scheduler._running[0].blocks))
    assert max(held[1:]) == 3  # 8 tokens and the next one touch three blocks of four
    assert simulation.pool.num_free == 12 - held[-1]
    assert len(simulation.outputs["first"]) == 60  # which is more than the cache has room for

    simulation = Simulation(budget=64, window=8)
    simulation.run("first", token_ids=SHARED, max_tokens=1)
    simulation.add("second", token_ids=SHARED, max_tokens=1)
    assert simulation.step() == {"second": BLOCK_SIZE}


def test_a_prompt_with_wanted_logprobs_is_not_taken_from_the_cache():
    simulation = Simulation(budget=64)
    simulation.add("first", token_ids=SHARED, max_tokens=1)
    simulation.step()
    simulation.add("second", token_ids=SHARED, max_tokens=2, prompt_logprobs=0)
    assert simulation.step() == {"second": 40}
    simulation.step()
    first, second = simulation.outputs["second"]
    assert [one.chosen.token_id for one in first.prompt_logprobs] == SHARED[1:]
    assert second.prompt_logprobs == []


def test_an_embedding_has_one_output_after_its_whole_prompt():
    scheduler = Scheduler(BlockPool(64, BLOCK_SIZE), 2, 4, [EOS])
    request = Request("a", [3] * 6, SamplingParams(), embeds=True)
    scheduler.add(request)
    for num_tokens, hidden_sum in ((4, [1.0, 4.0]), (2, [2.0, 0.0])):
        (one,) = scheduler.schedule().scheduled
        assert (one.num_tokens, one.samples) == (num_tokens, False)
        outputs = scheduler.update([one], [SequenceResult(hidden_sum=hidden_sum)])
    (output,) = outputs
    assert (output.finish_reason, output.new_token_ids) == (FinishReason.EMBEDDED, [])
    assert output.embedding == pytest.approx([0.6, 0.8])
    assert output.admission.num_cached_tokens == 0
    assert scheduler.num_running == 0
    scheduler.add(request)
    assert scheduler.schedule().scheduled[0].sequence.num_computed_tokens == 0  # nothing is reused


def test_logprobs_of_a_prompt_in_chunks_come_together_with_the_first_token():
    simulation = Simulation(budget=8)
    simulation.add("a", token_ids=SHARED, prompt_logprobs=0)
    for _ in range(4):
        simulation.step()
    assert not simulation.outputs["a"]
    simulation.step()
    [output] = simulation.outputs["a"]
    assert [one.chosen.token_id for one in output.prompt_logprobs] == SHARED[1:]


# Prefixes that are being computed.


@pytest.mark.parametrize(("budget", "leading"), [(64, [40]), (22, [22, 18])])
def test_of_equal_prompts_one_is_computed_and_the_others_wait(budget, leading):
    simulation = Simulation(budget=budget)
    for request_id in "abcd":
        simulation.add(request_id, token_ids=SHARED)
    assert [simulation.step() for _ in leading] == [{"a": num_tokens} for num_tokens in leading]
    assert simulation.step() == {"a": 1, "b": 4, "c": 4, "d": 4}
    cached = {one: simulation.outputs[one][0].admission.num_cached_tokens for one in "abcd"}
    assert cached == {"a": 0, "b": 36, "c": 36, "d": 36}


def test_waiting_for_a_prefix_takes_no_place_from_others():
    simulation = Simulation(budget=16, max_num_seqs=2)
    for number in range(8):
        simulation.add(f"same {number}", token_ids=SHARED, tenant="a")
    simulation.add("other", tenant="b")
    assert simulation.step() == {"other": 3}  # the short prompt's turn
    assert [one.request.request_id for one in simulation.scheduler._running] == ["same 0", "other"]


def test_a_prefix_is_computed_once_whoever_leaves():
    simulation = Simulation(budget=20, max_num_seqs=8)
    for number in range(8):
        simulation.add(str(number), token_ids=[*SHARED, 1000 + number], max_tokens=1)
    for number in range(3):
        simulation.step()
        simulation.scheduler.abort(str(number))
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        simulation.step()
    # The shared tokens once, and what lies behind the last full block of each that computed it.
    assert simulation.num_computed.total() <= 40 + 3 * BLOCK_SIZE + 8


def test_the_queues_deadline_does_not_count_the_computation_of_a_prefix():
    simulation = Simulation(budget=8, max_queue_seconds=60)
    scheduler = simulation.scheduler
    for request_id in "ab":
        simulation.add(request_id, token_ids=SHARED, max_tokens=1)
    for _ in range(4):
        simulation.step()
        for sequence in scheduler._waiting:
            sequence.waits_since -= 61
        assert scheduler.expire() == []
    for _ in range(2):
        simulation.step()
    assert simulation.reason("b") is FinishReason.LENGTH


def start_chain() -> Simulation:
    """Starts four sequences: `first` is computed, `second` is in prefill and leads the others.

    `third` shares 40 tokens with `second`, and `fourth` all 80.
    """
    simulation = Simulation(budget=48)
    shared = SHARED[:20] + [50 + i for i in range(60)]
    simulation.add("first", token_ids=SHARED, max_tokens=20)
    simulation.add("second", token_ids=shared)
    simulation.add("third", token_ids=[*shared[:40], 98, 99])
    simulation.add("fourth", token_ids=[*shared, 98, 99])
    assert simulation.step() == {"first": 40}
    assert simulation.step() == {"first": 1, "second": 47}
    return simulation


def test_a_follower_runs_as_soon_as_the_shared_prefix_is_computed():
    simulation = start_chain()
    assert simulation.step() == {"first": 1, "second": 13, "third": 2}
    assert simulation.step() == {"first": 1, "second": 1, "third": 1, "fourth": 2}
    cached = {name: one[0].admission.num_cached_tokens for name, one in simulation.outputs.items()}
    assert cached == {"first": 0, "second": 20, "third": 40, "fourth": 80}


def test_followers_use_what_an_aborted_leader_had_computed():
    simulation = start_chain()
    simulation.scheduler.abort("second")
    assert simulation.step() == {"first": 1, "third": 2, "fourth": 18}  # 64 of 82 tokens are there
    assert simulation.outputs["fourth"][0].admission.num_cached_tokens == 64


def test_followers_of_a_sequence_that_fails_go_on_without_it():
    simulation = start_chain()
    assert simulation.step(failing=["second"]) == {"first": 1, "second": 13, "third": 2}
    assert simulation.reason("second") is FinishReason.ERROR
    # `third` shares blocks of the failed one, which others may use; `fourth` finds their tokens.
    assert simulation.step() == {"first": 1, "third": 1, "fourth": 42}
    assert simulation.outputs["fourth"][0].admission.num_cached_tokens == 40


def test_a_follower_can_be_aborted():
    simulation = start_chain()
    simulation.scheduler.abort("third")
    assert simulation.step() == {"first": 1, "second": 13}
    assert simulation.step() == {"first": 1, "second": 1, "fourth": 2}


def test_a_prompt_with_wanted_logprobs_leads_and_never_follows():
    simulation = Simulation(budget=64)
    simulation.add("a", token_ids=SHARED[:30], prompt_logprobs=0)
    simulation.add("b", token_ids=SHARED[:30], prompt_logprobs=0)
    simulation.add("c", token_ids=SHARED[:30])
    assert simulation.step() == {"a": 30, "b": 30}
    assert simulation.step() == {"a": 1, "b": 1, "c": 2}


def test_tenants_share_no_prefixes():
    simulation = Simulation(budget=16)
    simulation.add("a", token_ids=SHARED, tenant="a")
    simulation.step()
    simulation.add("b", token_ids=SHARED, tenant="b")
    simulation.add("c", token_ids=SHARED, tenant="a")
    simulation.step()
    assert [one.request.request_id for one in simulation.scheduler._waiting] == ["c"]
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        simulation.step()
    cached = {one: simulation.outputs[one][0].admission.num_cached_tokens for one in "abc"}
    assert cached == {"a": 0, "b": 0, "c": 36}
    simulation.add("d", token_ids=SHARED, tenant="b")
    simulation.add("e", token_ids=SHARED, tenant="d")
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        simulation.step()
    assert simulation.outputs["d"][0].admission.num_cached_tokens == 36
    assert simulation.outputs["e"][0].admission.num_cached_tokens == 0
