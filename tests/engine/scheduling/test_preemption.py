"""Preemption: a tenant below its share of places takes one from another tenant."""

import time
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.engine.logprobs import PositionLogprobs, SampledToken, TokenLogprob
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.scheduler import Scheduler
from src.engine.scheduling.step import ScheduledSequence, SequenceResult
from tests.support.scheduling import (
    BLOCK_SIZE,
    EOS,
    TOKEN,
    Simulation,
    check_blocks,
    create_request,
    requests,
)

MAX_BLOCKS = 17
"""Number of blocks that the longest request needs."""

AMPLE_BLOCKS = 1000


def test_a_flood_is_preempted_for_another_tenant_in_the_next_step():
    simulation = Simulation(budget=64)
    for number in range(10):
        simulation.add(f"flood {number}", tenant="flood", max_tokens=20)
    simulation.step()
    simulation.add("calm", tenant="calm", max_tokens=2)
    assert set(simulation.step()) == {"flood 0", "flood 1", "flood 2", "calm"}
    simulation.step()
    # The victim gets the place back, and computes what no full block holds.
    again = {"flood 3": BLOCK_SIZE}
    assert simulation.step() == dict.fromkeys((f"flood {n}" for n in range(3)), 1) | again


def test_a_tenant_alone_keeps_its_places_though_its_own_requests_wait():
    simulation = Simulation(budget=64)
    for number in range(10):
        simulation.add(f"flood {number}", max_tokens=20)
    for _ in range(19):
        assert set(simulation.step()) == {f"flood {number}" for number in range(4)}
    assert all(sequence.num_preemptions == 0 for sequence in simulation.scheduler._running)


def test_places_are_shared_by_weight_and_preempted_sequences_go_on_first():
    simulation = Simulation(budget=64, max_num_seqs=8)
    for number in range(10):
        simulation.add(f"flood {number}", tenant="flood", max_tokens=20)
    simulation.step()
    for number in range(10):
        simulation.add(f"heavy {number}", tenant="heavy", weight=3, max_tokens=4)
    step = simulation.step()
    assert sorted(step) == ["flood 0", "flood 1", *(f"heavy {number}" for number in range(6))]
    for _ in range(3):
        simulation.step()
    # Four of the heavy tenant's sequences are left; the flood's go on in their old order.
    flood = sorted(one for one in simulation.step() if one.startswith("flood"))
    assert flood == [f"flood {number}" for number in range(4)]


def test_a_preempted_sequence_sends_each_output_once():
    simulation = Simulation(max_num_seqs=2, budget=64)
    simulation.add("stays", tenant="flood", max_tokens=30)
    simulation.add("goes", 20, tenant="flood", max_tokens=9, prompt_logprobs=0, min_tokens=3)
    for _ in range(3):
        simulation.step()
    before = list(simulation.outputs["goes"])
    simulation.add("calm", 10, tenant="calm", max_tokens=3)
    assert set(simulation.step()) == {"stays", "calm"}
    while simulation.scheduler.num_waiting + simulation.scheduler.num_running:
        simulation.step()
    outputs = simulation.outputs["goes"]
    assert outputs[: len(before)] == before
    assert [len(one.new_token_ids) for one in outputs] == [1] * 9
    assert [bool(one.admission) for one in outputs] == [True] + [False] * 8
    assert [len(one.prompt_logprobs) for one in outputs] == [19] + [0] * 8
    assert outputs[-1].finish_reason is FinishReason.LENGTH


def test_a_preempted_sequence_has_drafts_again_after_its_prefill():
    drafts = DraftLimits(3, 8)
    simulation = Simulation(max_num_seqs=2, budget=8, drafts=drafts)
    simulation.add("stays", tenant="flood", max_tokens=60)
    simulation.add("goes", tenant="flood", token_ids=[TOKEN] * 20, max_tokens=20)
    while len(simulation.outputs["goes"]) < 3:
        simulation.step()
    simulation.add("calm", tenant="calm", max_tokens=1)
    assert "goes" not in simulation.step()
    num_before = len(simulation.outputs["goes"])
    (sequence,) = simulation.scheduler._waiting
    assert simulation.scheduler._part(sequence, 5, 3).draft == ()  # tokens are still missing
    while not simulation.reason("goes"):
        simulation.step()
    outputs = simulation.outputs["goes"]
    assert sum(len(one.new_token_ids) for one in outputs) == 20
    assert max(len(one.new_token_ids) for one in outputs[num_before:]) > 1


def preempt_in_prefill(**request: object) -> Simulation:
    """Preempts `goes` when half of its prompt is computed, and runs it to its first output."""
    simulation = Simulation(max_num_seqs=2, budget=24)
    simulation.add("stays", 2, tenant="flood", max_tokens=60)
    simulation.step()
    simulation.scheduler.add(create_request("goes", 40, tenant="flood", **request))
    simulation.step()
    simulation.add("calm", 3, tenant="calm", max_tokens=1)
    assert "goes" not in simulation.step()
    while not simulation.outputs["goes"]:
        simulation.step()
    return simulation


def test_prompt_logprobs_of_a_preempted_sequence_come_whole_and_once():
    simulation = preempt_in_prefill(prompt_logprobs=0)
    [output] = simulation.outputs["goes"]
    prompt = create_request("goes", 40).prompt_token_ids
    assert [one.chosen.token_id for one in output.prompt_logprobs] == prompt[1:]


def test_tokens_that_a_preempted_sequence_computed_are_not_reported_as_cached():
    simulation = preempt_in_prefill()  # its blocks are not overwritten meanwhile
    [output] = simulation.outputs["goes"]
    assert output.admission.num_cached_tokens == 0


def test_the_time_in_the_queue_ends_with_the_first_admission():
    simulation = Simulation(max_num_seqs=2, budget=24)
    simulation.add("stays", 2, tenant="flood", max_tokens=60)
    simulation.add("goes", 40, tenant="flood")
    simulation.step()
    simulation.add("calm", 3, tenant="calm", max_tokens=1)
    simulation.step()
    (sequence,) = simulation.scheduler._waiting
    object.__setattr__(sequence.request, "arrived_at", time.monotonic() - 500)
    while not simulation.outputs["goes"]:
        simulation.step()
    assert simulation.outputs["goes"][0].admission.queue_seconds < 500


def test_a_preempted_embedding_sums_each_position_once():
    scheduler = Scheduler(BlockPool(64, BLOCK_SIZE), 2, 6, [EOS])
    scheduler.add(create_request("stays", tenant="flood", max_tokens=60))
    scheduler.add(Request("goes", [3] * 8, SamplingParams(), embeds=True, tenant="flood"))
    embedding: list[float] = []
    num_preempted = 0
    for number in range(12):
        if number == 1:
            assert scheduler._running[-1].hidden_sum
            scheduler.add(create_request("calm", tenant="calm", max_tokens=1))
        work = scheduler.schedule()
        num_preempted += work.num_preempted
        results = [result_of_positions(one) for one in work.scheduled]
        for output in scheduler.update(work.scheduled, results):
            embedding += output.embedding
    assert num_preempted == 1
    assert embedding == pytest.approx([28 / 848**0.5, 8 / 848**0.5])


def result_of_positions(one: ScheduledSequence) -> SequenceResult:
    """Returns a result in which the hidden state of a token is (position, 1)."""
    if not one.sequence.request.embeds:
        return SequenceResult([SampledToken(TOKEN, None)] * one.num_sampled)
    start = one.sequence.num_computed_tokens
    return SequenceResult(hidden_sum=[sum(range(start, start + one.num_tokens)), one.num_tokens])


def test_a_preempted_sequence_neither_expires_nor_is_displaced():
    simulation = Simulation(max_num_seqs=2, max_queue_size=2, max_queue_seconds=60)
    scheduler = simulation.scheduler
    for number in range(4):
        arrived_at = time.monotonic() - 59
        request = Request(
            f"flood {number}", [number + 1] * 3, SamplingParams(), arrived_at, tenant="flood"
        )
        scheduler.add(request)
    assert scheduler.expire() == []
    simulation.step()
    simulation.add("calm", tenant="calm", max_tokens=9)
    assert scheduler.expire() == [RequestOutput("flood 3", [], FinishReason.DISPLACED)]
    assert set(simulation.step()) == {"flood 0", "calm"}
    for sequence in scheduler._waiting:
        sequence.waits_since = time.monotonic() - 61
    assert scheduler.expire() == [RequestOutput("flood 2", [], FinishReason.EXPIRED)]
    for number in range(2):
        simulation.add(f"other {number}", tenant="other", weight=3)
    assert [one.request_id for one in scheduler.expire()] == ["other 1"]
    assert next(iter(scheduler._waiting)).request.request_id == "flood 1"


def test_sequences_of_a_group_do_not_expire_once_the_first_was_admitted():
    simulation = Simulation(max_num_seqs=2, max_queue_seconds=60)
    scheduler = simulation.scheduler
    long_ago = time.monotonic() - 61
    for group in ("begun", "late", ""):
        for number in range(4):
            request = Request(
                f"{group} {number}", [1, 2], SamplingParams(max_tokens=2), long_ago, group=group
            )
            scheduler.add(request)
        if group == "begun":
            simulation.step()
    expired = {one.request_id for one in scheduler.expire()}
    assert expired == {f"{group} {number}" for group in ("late", "") for number in range(4)}
    while scheduler.num_running + scheduler.num_waiting:
        assert scheduler.expire() == []
        simulation.step()
    reasons = {simulation.reason(f"begun {number}") for number in range(4)}
    assert reasons == {FinishReason.LENGTH}


class Oracle(Simulation):
    """A simulation in which tokens follow from the preceding tokens, as in a model."""

    def _result(self, one: ScheduledSequence, token_id: int) -> SequenceResult:
        tokens = [*one.sequence.token_ids, *one.draft]
        first = len(one.sequence.token_ids)
        drawn = [
            self._draw(tokens[: first + number], one.sequence.banned_token_ids(number))
            for number in range(one.num_sampled)
        ]
        pairs = zip(one.draft, drawn, strict=False)
        num_right = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        kept = [SampledToken(token, None) for token in drawn[: num_right + 1]]
        logprobs = [PositionLogprobs(TokenLogprob(i, -1.0), []) for i in one.next_prompt_token_ids]
        return SequenceResult(kept, logprobs)

    @staticmethod
    def _draw(tokens: list[int], banned: Collection[int]) -> int:
        drawn = zlib.crc32(repr(tokens[-3:]).encode()) % 6
        return TOKEN if drawn in banned else drawn

    def answer(self, request_id: str) -> tuple[list[int], list[int], FinishReason | None]:
        """Returns the tokens, the tokens of prompt log-probabilities, and the finish reason."""
        outputs = self.outputs[request_id]
        assert [one.finish_reason is not None for one in outputs] == [
            *[False] * (len(outputs) - 1),
            True,
        ]
        assert sum(one.admission is not None for one in outputs) == 1
        tokens = [token for one in outputs for token in one.new_token_ids]
        prompt = [one.chosen.token_id for output in outputs for one in output.prompt_logprobs]
        return tokens, prompt, outputs[-1].finish_reason


def test_tokens_are_the_same_as_alone_and_shares_are_fair_for_any_tenants():
    num_preempted = 0

    @settings(deadline=None, derandomize=True)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        nonlocal num_preempted
        simulation, sent = run_tenants(data)
        num_preempted += simulation.num_preempted
        for request in sent.values():
            alone = Oracle(50, 1)
            alone.scheduler.add(request)
            while alone.scheduler.num_running + alone.scheduler.num_waiting:
                alone.step()
            assert simulation.answer(request.request_id) == alone.answer(request.request_id)

    run()
    assert num_preempted > 20


def run_tenants(data: st.DataObject) -> tuple[Oracle, dict[str, Request]]:
    """Adds requests of three tenants while others run; returns them when all have ended."""
    max_num_seqs = data.draw(st.integers(2, 8))
    num_blocks = data.draw(st.integers(MAX_BLOCKS, 3 * MAX_BLOCKS) | st.just(AMPLE_BLOCKS))
    budget = data.draw(st.integers(max_num_seqs, 50))
    drafts = DraftLimits(data.draw(st.integers(0, 5)), data.draw(st.integers(1, budget)))
    weights = {name: data.draw(st.integers(1, 4)) for name in "abc"}
    window = data.draw(st.none() | st.integers(1, 20))
    simulation = Oracle(budget, max_num_seqs, num_blocks, window, drafts=drafts)
    sent: dict[str, Request] = {}
    num_first = data.draw(st.integers(2, 10))  # of one tenant, before any step
    for number in range(num_first + data.draw(st.integers(1, 30))):
        if number < num_first or data.draw(st.booleans()):
            tenant = "a" if number < num_first else data.draw(st.sampled_from("aabbc"))
            request = data.draw(requests(str(number)))
            params = replace(request.sampling_params, max_tokens=data.draw(st.integers(5, 20)))
            request = replace(
                request, tenant=tenant, weight=weights[tenant], sampling_params=params
            )
            sent[str(number)] = request
            simulation.scheduler.add(request)
        else:
            simulation.step()
            if num_blocks == AMPLE_BLOCKS:
                assert_shares_are_fair(simulation.scheduler)
    # No request is added any more. Each step brings a sequence nearer to its end, but for those
    # that are preempted for lack of blocks, which is at most once for each block of another one.
    num_steps = sum(len(one.prompt_token_ids) + 40 for one in sent.values())
    for _ in range(num_steps if num_blocks == AMPLE_BLOCKS else 20 * num_steps):
        if not simulation.scheduler.num_running + simulation.scheduler.num_waiting:
            break
        assert simulation.step()
        if num_blocks == AMPLE_BLOCKS:
            assert_shares_are_fair(simulation.scheduler)
        check_blocks(simulation.pool, simulation.scheduler._running)
    assert simulation.scheduler.num_running + simulation.scheduler.num_waiting == 0
    assert simulation.pool.num_free == num_blocks
    return simulation, sent


def assert_shares_are_fair(scheduler: Scheduler) -> None:
    """Checks that no waiting tenant could take a place without exceeding its owner's share.

    This holds in the foreground and in the background, which has no place that the other waits for.
    A sequence that waited for a prefix when the step was planned could take none.
    """
    running = scheduler._running
    waiting = [one for one in scheduler._waiting if one.awaited is None]
    if scheduler.num_running < scheduler.max_num_seqs:
        return
    weights = {one.request.tenant: one.request.weight for one in (*running, *waiting)}
    for in_background in (False, True):
        rivals = [one for one in running if one.in_background == in_background]
        held = Counter(one.request.tenant for one in rivals)
        for name in {one.request.tenant for one in waiting if one.in_background == in_background}:
            assert in_background or len(rivals) == len(running)
            for other in held:
                assert (held[other] - 1) / weights[other] < (held[name] + 1) / weights[name]
