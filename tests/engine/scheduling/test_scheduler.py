"""Scheduler, with a simulated model: no torch."""

import subprocess
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.engine.logprobs import PositionLogprobs, SampledToken, TokenLogprob
from src.engine.request import EngineStats, FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.kv_slots import SlotPool
from src.engine.scheduling.prefix_leaders import MIN_SHARED_TOKENS
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.scheduler import Scheduler
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import ScheduledSequence, SequenceResult

ROOT = Path(__file__).parents[3]
EOS = 0
TOKEN = 7
CAPACITY = 128
SHARED = list(range(1, 41))


def create_request(
    request_id: str,
    num_tokens: int = 3,
    token_ids: list[int] | None = None,
    tenant: str = "",
    weight: int = 1,
    **params: object,
) -> Request:
    """Creates a request; prompts of different names share no prefix, unless `token_ids` do."""
    if token_ids is None:
        first = zlib.crc32(request_id.encode())
        token_ids = list(range(first, first + num_tokens))
    params = {"max_tokens": 4} | params
    return Request(request_id, token_ids, SamplingParams(**params), tenant=tenant, weight=weight)


class Simulation:
    """A scheduler with a simulated KV cache: for each key the tokens that it was computed from.

    Fails if a sequence is scheduled and its slot does not hold the keys that it should.
    """

    def __init__(
        self, num_slots: int = 4, budget: int = 8, max_num_seqs: int = 4, **options: object
    ) -> None:
        self.pool = SlotPool(num_slots, CAPACITY)
        self.scheduler = Scheduler(self.pool, max_num_seqs, budget, [EOS], **options)
        self.outputs: dict[str, list[RequestOutput]] = defaultdict(list)
        self.num_preempted = 0
        self._budget = budget
        self._cache: dict[int, list[tuple[int, ...]]] = defaultdict(list)

    def add(self, request_id: str, *args: object, **options: object) -> None:
        self.scheduler.add(create_request(request_id, *args, **options))

    def step(self, token_id: int = TOKEN, failing: Collection[str] = ()) -> dict[str, int]:
        """Runs a step in which all samples are this token, unless it is banned.

        Returns:
            The number of computed tokens of each request.
        """
        work = self.scheduler.schedule()
        self.num_preempted += work.num_preempted
        for _, lease in work.leases:
            source = self._cache[lease.copy_from.index]
            self._cache[lease.slot.index][: lease.num_cached] = source[: lease.num_cached]
        assert work.num_tokens <= self._budget
        places = [(one.size > 1, one.sequence.slot.index) for one in work.scheduled]
        assert places == sorted(set(places))  # single tokens first, in the order of their slots
        for one in work.scheduled:
            self._compute(one)
        going = [one for one in work.scheduled if name(one) not in failing]
        for one in work.scheduled:
            if name(one) in failing:
                self._fail(one.sequence)
        results = [self._result(one, token_id) for one in going]
        for output in self.scheduler.update(going, results):
            self.outputs[output.request_id].append(output)
        return {name(one): one.size for one in work.scheduled}

    def _compute(self, one: ScheduledSequence) -> None:
        sequence, held = one.sequence, self._cache[one.sequence.slot.index]
        start, tokens = sequence.num_computed_tokens, [*sequence.token_ids, *one.draft]
        assert one.num_tokens > 0
        assert one.samples or not one.draft
        assert held[:start] == [tuple(tokens[: i + 1]) for i in range(start)]
        held[start:] = [tuple(tokens[: i + 1]) for i in range(start, start + one.size)]

    def _fail(self, sequence: Sequence) -> None:
        """Ends a sequence that makes the model raise, as the core does."""
        sequence.slot.num_valid = 0
        self._cache[sequence.slot.index].clear()
        self.outputs[sequence.request.request_id].append(
            self.scheduler.finish(sequence, FinishReason.ERROR)
        )

    def _result(self, one: ScheduledSequence, token_id: int) -> SequenceResult:
        if token_id in one.sequence.banned_token_ids():
            token_id = TOKEN
        drawn = [SampledToken(token_id, None)] * one.num_sampled
        num_right = len(list(takewhile(lambda guess: guess == token_id, one.draft)))
        logprobs = [PositionLogprobs(TokenLogprob(i, -1.0), []) for i in one.next_prompt_token_ids]
        return SequenceResult(drawn[: num_right + 1], logprobs)

    def run(self, request_id: str, token_id: int = TOKEN, **params: object) -> list[int]:
        """Runs a request to its end; returns its tokens."""
        self.add(request_id, **params)
        for _ in range(CAPACITY):
            if not self.scheduler.num_running + self.scheduler.num_waiting:
                break
            self.step(token_id)
        return [token for output in self.outputs[request_id] for token in output.new_token_ids]

    def reason(self, request_id: str) -> FinishReason | None:
        return self.outputs[request_id][-1].finish_reason


def name(one: ScheduledSequence) -> str:
    return one.sequence.request.request_id


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
    simulation = Simulation(num_slots=2, max_num_seqs=2)
    for request_id in "abc":
        simulation.add(request_id, max_tokens=2)
    assert set(simulation.step()) == {"a", "b"}
    assert simulation.scheduler.num_waiting == 1
    simulation.step()
    assert set(simulation.step()) == {"c"}


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_an_abort_frees_the_requests_slot(num_steps):
    simulation = Simulation(num_slots=1, max_num_seqs=1)
    scheduler = simulation.scheduler
    simulation.add("a", 10)
    for _ in range(num_steps):
        simulation.step()
    output = scheduler.abort("a")
    assert output is not None
    assert output.finish_reason is FinishReason.ABORT
    assert scheduler.abort("a") is None
    assert (scheduler.num_running, scheduler.num_waiting, simulation.pool.num_free) == (0, 0, 1)


def test_stats_count_sequences_and_what_the_cache_holds():
    simulation = Simulation(num_slots=4, max_num_seqs=2, budget=64)
    assert simulation.scheduler.stats == EngineStats()
    simulation.add("ended", 20, max_tokens=1)
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(0, 0, 1, 20 / (4 * CAPACITY))
    for request_id in "abc":
        simulation.add(request_id, 10)
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(2, 1, 1, (20 + 10 + 10) / (4 * CAPACITY))
    simulation.step()
    assert simulation.scheduler.stats == EngineStats(2, 1, 1, (20 + 11 + 11) / (4 * CAPACITY))


# Ends of sequences.


def test_an_end_token_ends_a_sequence_and_frees_its_slot():
    simulation = Simulation(num_slots=1, max_num_seqs=1)
    assert simulation.run("a", token_id=EOS) == [EOS]
    assert simulation.reason("a") is FinishReason.STOP
    assert (simulation.scheduler.num_running, simulation.pool.num_free) == (0, 1)


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
    simulation = Simulation(num_slots=1, max_num_seqs=1, max_queue_seconds=60)
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
    simulation = Simulation(num_slots=1, max_num_seqs=1, max_queue_size=4)
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


# Prefix caching.


def test_the_next_turn_of_a_chat_finds_its_prefix_cached():
    simulation = Simulation(budget=64)
    simulation.add("first", token_ids=SHARED[:20], max_tokens=1)
    assert simulation.step() == {"first": 20}
    simulation.add("second", token_ids=SHARED[:30], max_tokens=1)
    assert simulation.step() == {"second": 10}
    assert simulation.outputs["second"][0].admission.num_cached_tokens == 20


def test_the_same_prompt_again_computes_its_last_token_only():
    simulation = Simulation(budget=64)
    for _ in range(2):
        simulation.add("a", token_ids=SHARED, max_tokens=1)
        counts = simulation.step()
    assert counts == {"a": 1}


def test_the_prefix_of_a_running_sequence_is_copied():
    simulation = Simulation(budget=64)
    simulation.add("first", token_ids=SHARED, max_tokens=9)
    simulation.step()
    simulation.add("second", token_ids=[*SHARED[:30], 98, 99])
    assert simulation.step() == {"first": 1, "second": 2}  # the simulation checks the keys


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
    scheduler = Scheduler(SlotPool(2, CAPACITY), 2, 4, [EOS])
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


# Prefixes that other sequences are computing.


@pytest.mark.parametrize(("budget", "leading"), [(64, [40]), (22, [22, 18])])
def test_of_equal_prompts_one_is_computed_and_the_others_copy(budget, leading):
    simulation = Simulation(budget=budget)
    for request_id in "abcd":
        simulation.add(request_id, token_ids=SHARED)
    assert [simulation.step() for _ in leading] == [{"a": num_tokens} for num_tokens in leading]
    assert simulation.step() == {"a": 1, "b": 1, "c": 1, "d": 1}
    cached = {one: simulation.outputs[one][0].admission.num_cached_tokens for one in "abcd"}
    assert cached == {"a": 0, "b": 39, "c": 39, "d": 39}


def test_a_short_prefix_is_not_waited_for():
    simulation = Simulation(budget=64)
    simulation.add("a", token_ids=SHARED)
    simulation.add("b", token_ids=[*SHARED[: MIN_SHARED_TOKENS - 1], 98, 99])
    simulation.add("c", token_ids=[*SHARED[:MIN_SHARED_TOKENS], 98, 99])
    assert set(simulation.step()) == {"a", "b"}
    assert simulation.step() == {"a": 1, "b": 1, "c": 2}


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


def test_a_follower_copies_as_soon_as_the_shared_prefix_is_computed():
    simulation = start_chain()
    assert simulation.step() == {"first": 1, "second": 13, "third": 2}
    assert simulation.step() == {"first": 1, "second": 1, "third": 1, "fourth": 2}
    cached = [output[0].admission.num_cached_tokens for output in simulation.outputs.values()]
    assert cached == [0, 20, 40, 80]


def test_followers_copy_what_an_aborted_leader_had_computed():
    simulation = start_chain()
    simulation.scheduler.abort("second")
    assert simulation.step() == {"first": 1, "third": 2, "fourth": 15}  # of 82 tokens, 67 are there
    assert simulation.outputs["fourth"][0].admission.num_cached_tokens == 67


def test_followers_of_a_sequence_that_fails_go_on_without_it():
    simulation = start_chain()
    assert simulation.step(failing=["second"]) == {"first": 1, "second": 13, "third": 2}
    assert simulation.reason("second") is FinishReason.ERROR
    # `third` has a complete copy of its own; `fourth` finds those 40 tokens there.
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
    assert simulation.step() == {"a": 1, "b": 1, "c": 1}


@st.composite
def requests(draw: st.DrawFn, request_id: str) -> Request:
    """Draws a request; some prompts are equal or share prefixes."""
    beginning = [1000 * draw(st.integers(0, 2)) + i for i in range(draw(st.integers(0, 40)))]
    end = [zlib.crc32(request_id.encode())] * draw(st.integers(0, 6))
    max_tokens = draw(st.integers(1, 5))
    params = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        ignore_eos=draw(st.booleans()),
        prompt_logprobs=draw(st.sampled_from([None, None, 0])),
    )
    return Request(request_id, beginning + end or [1], params)


@settings(deadline=None)
@given(data=st.data())
def test_invariants_hold_for_any_schedule(data):
    num_slots = data.draw(st.integers(1, 6))
    max_num_seqs = data.draw(st.integers(1, num_slots))
    budget = data.draw(st.integers(max_num_seqs, 50))
    drafts = DraftLimits(data.draw(st.integers(0, 9)), data.draw(st.integers(1, budget)))
    simulation = Simulation(num_slots, budget, max_num_seqs, drafts=drafts)
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
    assert simulation.pool.num_free == num_slots


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
    slots = [sequence.slot.index for sequence in scheduler._running]
    assert len(set(slots)) == len(slots)
    assert pool.num_free == len(pool._slots) - len(slots)
    assert 0 <= scheduler.stats.kv_usage <= 1


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


def waiting_for_others(simulation: Simulation) -> list[Sequence]:
    return [one for one in simulation.scheduler._running if one.leader is not None]


def test_tenants_share_no_prefixes():
    simulation = Simulation(budget=16)
    simulation.add("a", token_ids=SHARED, tenant="a")
    simulation.step()
    simulation.add("b", token_ids=SHARED, tenant="b")
    simulation.add("c", token_ids=SHARED, tenant="a")
    simulation.step()
    assert [one.request.request_id for one in waiting_for_others(simulation)] == ["c"]
    while simulation.scheduler.num_running:
        simulation.step()
    cached = {
        one: simulation.outputs[one][0].admission.num_cached_tokens for one in ("a", "b", "c")
    }
    assert cached == {"a": 0, "b": 0, "c": len(SHARED) - 1}
    simulation.add("d", token_ids=SHARED, tenant="b")
    simulation.add("e", token_ids=SHARED, tenant="d")
    while simulation.scheduler.num_running + simulation.scheduler.num_waiting:
        simulation.step()
    assert simulation.outputs["d"][0].admission.num_cached_tokens == len(SHARED) - 1
    assert simulation.outputs["e"][0].admission.num_cached_tokens == 0


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


# Preemption: a tenant below its share of places takes one from another tenant.


def test_a_flood_is_preempted_for_another_tenant_in_the_next_step():
    simulation = Simulation(num_slots=8, budget=64)
    for number in range(10):
        simulation.add(f"flood {number}", tenant="flood", max_tokens=20)
    simulation.step()
    simulation.add("calm", tenant="calm", max_tokens=2)
    assert set(simulation.step()) == {"flood 0", "flood 1", "flood 2", "calm"}
    simulation.step()
    # The victim gets the place back, with its slot, which nothing has overwritten.
    assert simulation.step() == dict.fromkeys((f"flood {number}" for number in range(4)), 1)


def test_a_tenant_alone_keeps_its_places_though_its_own_requests_wait():
    simulation = Simulation(budget=64)
    for number in range(10):
        simulation.add(f"flood {number}", max_tokens=20)
    for _ in range(19):
        assert set(simulation.step()) == {f"flood {number}" for number in range(4)}
    assert all(sequence.num_preemptions == 0 for sequence in simulation.scheduler._running)


def test_places_are_shared_by_weight_and_preempted_sequences_go_on_first():
    simulation = Simulation(num_slots=8, budget=64, max_num_seqs=8)
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
    simulation = Simulation(num_slots=2, max_num_seqs=2, budget=64)
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
    simulation = Simulation(num_slots=2, max_num_seqs=2, budget=8, drafts=drafts)
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


def preempt_in_prefill(num_slots: int = 2, **request: object) -> Simulation:
    """Preempts `goes` when half of its prompt is computed, and runs it to its first output."""
    simulation = Simulation(num_slots=num_slots, max_num_seqs=2, budget=24)
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
    simulation = preempt_in_prefill(num_slots=4)  # its slot is not overwritten meanwhile
    [output] = simulation.outputs["goes"]
    assert output.admission.num_cached_tokens == 0


def test_the_time_in_the_queue_ends_with_the_first_admission():
    simulation = Simulation(num_slots=2, max_num_seqs=2, budget=24)
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
    scheduler = Scheduler(SlotPool(2, CAPACITY), 2, 6, [EOS])
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
    simulation = Simulation(num_slots=2, max_num_seqs=2, max_queue_size=2, max_queue_seconds=60)
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
        object.__setattr__(sequence.request, "arrived_at", time.monotonic() - 61)
    assert scheduler.expire() == [RequestOutput("flood 2", [], FinishReason.EXPIRED)]
    for number in range(2):
        simulation.add(f"other {number}", tenant="other", weight=3)
    assert [one.request_id for one in scheduler.expire()] == ["other 1"]
    assert next(iter(scheduler._waiting)).request.request_id == "flood 1"


def test_sequences_of_a_group_do_not_expire_once_the_first_was_admitted():
    simulation = Simulation(num_slots=2, max_num_seqs=2, max_queue_seconds=60)
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
            alone = Oracle(1, 50, 1)
            alone.scheduler.add(request)
            while alone.scheduler.num_running + alone.scheduler.num_waiting:
                alone.step()
            assert simulation.answer(request.request_id) == alone.answer(request.request_id)

    run()
    assert num_preempted > 20


def run_tenants(data: st.DataObject) -> tuple[Oracle, dict[str, Request]]:
    """Adds requests of three tenants while others run; returns them when all have ended."""
    num_slots = data.draw(st.integers(2, 8))
    max_num_seqs = data.draw(st.integers(2, num_slots))
    budget = data.draw(st.integers(max_num_seqs, 50))
    drafts = DraftLimits(data.draw(st.integers(0, 5)), data.draw(st.integers(1, budget)))
    weights = {name: data.draw(st.integers(1, 4)) for name in "abc"}
    simulation = Oracle(num_slots, budget, max_num_seqs, drafts=drafts)
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
            assert_shares_are_fair(simulation.scheduler)
    # No request is added any more, so each step brings a sequence nearer to its end.
    for _ in range(sum(len(one.prompt_token_ids) + 40 for one in sent.values())):
        simulation.step()
        assert_shares_are_fair(simulation.scheduler)
    assert simulation.scheduler.num_running + simulation.scheduler.num_waiting == 0
    assert simulation.pool.num_free == num_slots
    return simulation, sent


def assert_shares_are_fair(scheduler: Scheduler) -> None:
    """Checks that no waiting tenant could take a place without exceeding its owner's share."""
    running, waiting = scheduler._running, list(scheduler._waiting)
    if scheduler.num_running < scheduler.max_num_seqs:
        return
    held = Counter(one.request.tenant for one in running)
    weights = {one.request.tenant: one.request.weight for one in (*running, *waiting)}
    for name in {one.request.tenant for one in waiting}:
        for other in held:
            assert (held[other] - 1) / weights[other] < (held[name] + 1) / weights[name]
