"""Contract of both engines: each request ends once, independently of the others."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import get_args

import pytest
import torch
from transformers import GenerationConfig

from src.engine.config import EngineConfig
from src.engine.factory import create_engine
from src.engine.logprobs import MIN_LOGPROB, LogprobsMode
from src.engine.model.loader import LoadedModel, load_model
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import EngineDeadError, OverloadedError
from tests.conftest import wait_until
from tests.support.engines import (
    PROMPT,
    Answer,
    Harness,
    assert_same_logprobs,
    create_request,
    oracle,
)
from tests.support.servers import Gate
from tests.support.tiny_models import ARCHITECTURES, VOCAB_SIZE, create_tokenizer

POISON = 200
ENGINES = ("continuous", "reference")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def gpt2(tiny_model) -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model("gpt2"))))


@pytest.fixture(params=ENGINES)
def start_engine(request) -> Iterator[Callable[..., Harness]]:
    """Starts engines of each kind; after the test checks that no request is left over."""
    engines: list[Harness] = []

    def start(loaded: LoadedModel, **options: object) -> Harness:
        config = EngineConfig("unused", **({"engine": request.param, "max_num_seqs": 4} | options))
        engines.append(Harness(lambda receive: create_engine(loaded, config, receive)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_generate(tiny_model, start_engine, architecture):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    expected = oracle(loaded, do_sample=False)
    assert start_engine(loaded).run(create_request(temperature=0))[0] == expected


def test_the_models_own_sampling_defaults_do_not_count(gpt2, start_engine, tmp_path):
    gpt2.model.save_pretrained(tmp_path)
    plain, _ = start_engine(gpt2).run(create_request(temperature=0))
    create_tokenizer().save_pretrained(tmp_path)
    GenerationConfig(repetition_penalty=5.0, max_length=7).save_pretrained(tmp_path)
    other = load_model(EngineConfig(str(tmp_path)))
    assert start_engine(other).run(create_request(temperature=0))[0] == plain


def test_ends_with_the_end_token_or_at_the_length(gpt2, tiny_model, start_engine):
    token_ids = oracle(gpt2, do_sample=False)
    request = create_request("length", max_tokens=3, temperature=0)
    assert start_engine(gpt2).run(request) == (token_ids[:3], FinishReason.LENGTH)
    other = load_model(EngineConfig(str(tiny_model("gpt2"))))
    other.eos_token_ids[:] = [token_ids[2]]
    first = token_ids.index(token_ids[2]) + 1
    assert start_engine(other).run(create_request("stop", temperature=0)) == (
        token_ids[:first],
        FinishReason.STOP,
    )


def test_an_end_token_at_the_length_is_a_stop(gpt2, start_engine):
    token_ids = oracle(gpt2, do_sample=False)
    gpt2.eos_token_ids[:] = [token_ids[0]]
    request = create_request(max_tokens=1, temperature=0)
    assert start_engine(gpt2).run(request) == (token_ids[:1], FinishReason.STOP)


def test_an_abort_ends_a_running_request_within_a_token(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    seen = threading.Event()

    def on_output(output: RequestOutput) -> None:
        if not seen.is_set():
            engine.engine.abort_request("a")
            seen.set()

    engine.on_output = on_output
    token_ids, reason = engine.run(create_request(max_tokens=100))
    assert reason is FinishReason.ABORT
    assert len(token_ids) <= 2


def test_an_abort_ends_a_waiting_request_without_running_it(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    first = engine.add(create_request("first", max_tokens=100))
    second = engine.add(create_request("second"))
    engine.engine.abort_request("second")
    assert second.all() == ([], FinishReason.ABORT)
    assert first.all()[1] is FinishReason.LENGTH


def test_an_abort_of_an_unknown_request_is_ignored(gpt2, start_engine):
    start_engine(gpt2).engine.abort_request("never heard of")


def test_a_failing_request_fails_alone(gpt2, start_engine):
    real = gpt2.model.forward

    def fail_on_poison(input_ids: torch.Tensor, **kwargs: object) -> object:
        if (input_ids == POISON).any():
            raise RuntimeError("made to fail")
        return real(input_ids, **kwargs)

    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    gpt2.model.forward = fail_on_poison
    good = [engine.add(create_request(f"good {number}", temperature=0)) for number in range(2)]
    bad = engine.add(Request("bad", [*PROMPT, POISON], SamplingParams()))
    good += [engine.add(create_request(f"good {number}", temperature=0)) for number in range(2, 4)]
    assert bad.all() == ([], FinishReason.ERROR)
    answers = [outputs.all() for outputs in good]
    assert answers == [answers[0]] * 4
    assert answers[0][1] is FinishReason.LENGTH
    assert engine.engine.admission.is_open


def test_when_the_thread_dies_all_requests_end(gpt2, start_engine):
    engine = start_engine(gpt2)
    both_there = threading.Event()

    def die(*args: object, **kwargs: object) -> object:
        both_there.wait(60)
        raise SystemExit("made to die")

    gpt2.model.forward = die
    running = engine.add(create_request("running"))
    waiting = engine.add(create_request("waiting"))
    both_there.set()
    assert running.all() == ([], FinishReason.ERROR)
    assert waiting.all() == ([], FinishReason.ERROR)
    wait_until(lambda: not engine.engine.admission.is_open)
    with pytest.raises(EngineDeadError):
        engine.add(create_request("late"))


def test_an_id_may_be_used_again_as_soon_as_its_request_has_ended(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    again = create_request(max_tokens=1)

    def add_again(output: RequestOutput) -> None:
        if output.finish_reason:
            engine.on_output = lambda _: None
            engine.engine.add_requests([again])

    engine.on_output = add_again
    outputs = engine.add(create_request(max_tokens=1))
    assert [outputs.all()[1] for _ in range(2)] == [FinishReason.LENGTH] * 2
    assert engine.run(create_request("other", max_tokens=1))[1] is FinishReason.LENGTH


def test_shutdown_aborts_running_and_waiting_requests(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    running = engine.add(create_request("running", max_tokens=100))
    waiting = engine.add(create_request("waiting"))
    running.next()
    engine.engine.shutdown()
    assert running.all()[1] is FinishReason.ABORT
    assert waiting.all()[1] is FinishReason.ABORT


def test_a_request_beyond_the_queues_deadline_expires(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2, max_num_seqs=1, max_queue_seconds=60)
    gate = hold(gpt2.model)
    running = engine.add(create_request("running", max_tokens=2))
    gate.wait()
    late = engine.add_all([create_late_request("late"), create_late_request("late too")])
    early = engine.add(create_request("early", max_tokens=2))
    gate.open()
    assert [outputs.all() for outputs in late] == [([], FinishReason.EXPIRED)] * 2
    assert running.all()[1] is FinishReason.LENGTH
    assert early.all()[1] is FinishReason.LENGTH


def test_an_engine_goes_on_after_all_waiting_requests_expired(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2, max_queue_seconds=60)
    assert engine.run(create_late_request("late")) == ([], FinishReason.EXPIRED)
    assert engine.run(create_request("early", max_tokens=2))[1] is FinishReason.LENGTH


def create_late_request(request_id: str) -> Request:
    """Creates a request that arrived 61 seconds ago."""
    return Request(request_id, PROMPT, SamplingParams(), arrived_at=time.monotonic() - 61)


def test_a_full_queue_takes_all_of_a_list_or_none(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2, max_num_seqs=1, max_queue_size=2)
    gate = hold(gpt2.model)
    running = engine.add(create_request("running", max_tokens=1))
    gate.wait()
    with pytest.raises(OverloadedError, match="queue is full") as refusal:
        engine.add_all([create_request(name, max_tokens=1) for name in "abc"])
    assert refusal.value.retry_after >= 1
    assert engine.engine.admission.num_live == 1
    waiting = engine.add_all([create_request(name, max_tokens=1) for name in "ab"])
    with pytest.raises(OverloadedError):
        engine.add(create_request("c"))
    gate.open()
    for outputs in (running, *waiting):
        assert outputs.all()[1] is FinishReason.LENGTH
    assert engine.run(create_request("d", max_tokens=1))[1] is FinishReason.LENGTH


def test_a_step_that_hangs_is_visible_and_ending_all_requests_closes_the_engine(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    gate = hold(gpt2.model)
    assert engine.engine.seconds_in_step == 0
    running = engine.add(create_request("running"))
    waiting = engine.add(create_request("waiting"))
    gate.wait()
    before = engine.engine.seconds_in_step
    time.sleep(0.05)
    assert engine.engine.seconds_in_step >= before + 0.05
    engine.engine.admission.end_all(FinishReason.ERROR)
    assert running.all() == waiting.all() == ([], FinishReason.ERROR)
    with pytest.raises(EngineDeadError):
        engine.add(create_request("late"))
    gate.open()
    wait_until(lambda: engine.engine.seconds_in_step == 0)
    engine.engine.shutdown()
    assert running.is_empty
    assert waiting.is_empty


def hold(model: torch.nn.Module) -> Gate:
    """Holds back the model's steps until the gate is opened."""
    gate = Gate()
    model.forward = wraps(model.forward)(partial(gate.forward, model.forward))
    return gate


# Parameters have the same effect in both engines.

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Both:
    """Both engines; the end token is the sixth of the `greedy` tokens for `PROMPT`."""

    engines: list[Harness]
    greedy: list[int]

    def answer(self, **params: object) -> Answer:
        """Returns the answer, after a comparison; only log-probabilities may differ a little."""
        params = {"temperature": 0, "max_tokens": len(self.greedy)} | params
        request = create_request(f"request {next(NUMBERS)}", **params)
        ours, reference = (engine.add(request).answer() for engine in self.engines)
        assert (ours.token_ids, ours.reason) == (reference.token_ids, reference.reason)
        assert_same_logprobs(ours.logprobs, reference.logprobs)
        assert_same_logprobs(ours.prompt_logprobs, reference.prompt_logprobs)
        return ours


@pytest.fixture(scope="module")
def both(tiny_model) -> Iterator[Both]:
    folder = str(tiny_model("llama"))
    greedy = oracle(load_model(EngineConfig(folder)), do_sample=False, eos_token_id=None)
    assert len(set(greedy[:6])) >= 5
    assert greedy[5] not in greedy[:5]
    engines = []
    for kind in ENGINES:
        config = EngineConfig(folder, engine=kind, max_num_seqs=4)
        loaded = load_model(config)
        loaded.eos_token_ids[:] = [greedy[5]]
        engines.append(Harness(partial(create_engine, loaded, config)))
    yield Both(engines, greedy)
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("params", "num_tokens", "reason"),
    [
        ({}, 6, FinishReason.STOP),
        ({"max_tokens": 5}, 5, FinishReason.LENGTH),
        ({"ignore_eos": True}, 20, FinishReason.LENGTH),
    ],
)
def test_an_answer_ends_with_an_end_token_or_at_its_length(both, params, num_tokens, reason):
    answer = both.answer(**params)
    assert (answer.token_ids, answer.reason) == (both.greedy[:num_tokens], reason)


@pytest.mark.parametrize(("ignore_eos", "last"), [(False, 2), (True, 10)])
def test_a_stop_token_ends_an_answer(both, ignore_eos, last):
    stop = both.greedy[last]
    answer = both.answer(stop_token_ids=(VOCAB_SIZE, stop), ignore_eos=ignore_eos)
    assert answer.token_ids == both.greedy[: both.greedy.index(stop) + 1]
    assert answer.reason is FinishReason.STOP


def test_before_min_tokens_end_tokens_are_avoided(both):
    end, stop = both.greedy[5], both.greedy[2]
    answer = both.answer(min_tokens=8, stop_token_ids=(stop,))
    assert answer.token_ids[:2] == both.greedy[:2]
    assert not {end, stop} & set(answer.token_ids[:8])
    assert len(answer.token_ids) >= 8


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_any_seed_of_64_bits_makes_an_answer_repeatable(both, seed):
    def answers(seed: int) -> list[list[int]]:
        params = {"temperature": 1.5, "top_p": 1.0, "max_tokens": 10, "seed": seed}
        requests = [create_request(f"seeded {next(NUMBERS)}", **params) for _ in both.engines]
        pairs = zip(both.engines, requests, strict=True)
        return [engine.add(request).answer().token_ids for engine, request in pairs]

    first = answers(seed)
    assert answers(seed) == first
    others = answers(seed ^ 1)
    assert all(one != other for one, other in zip(first, others, strict=True))


@pytest.mark.parametrize("params", [{"min_p": 1.0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_filters_that_keep_one_token_make_sampling_greedy(both, params):
    sampling = {"temperature": 1.5, "top_p": 1.0, "seed": 1}
    assert both.answer(**(sampling | params)).token_ids == both.greedy[:6]


CHANGES = [
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 2.0},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 1.5},
    {"frequency_penalty": -1.5},
    {"logit_bias": dict.fromkeys(range(0, VOCAB_SIZE, 2), -100.0)},
    {
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "logit_bias": {55: -2.0},
        "min_tokens": 12,
        "logprobs": 4,
    },
]


@pytest.mark.parametrize("params", CHANGES, ids=", ".join)
def test_penalties_and_biases_change_an_answer_alike_in_both_engines(both, params):
    assert both.answer(ignore_eos="min_tokens" not in params, **params).token_ids != both.greedy


@pytest.mark.parametrize("num_top", [0, 5])
def test_logprobs_are_the_models_own(both, num_top):
    told = both.answer(logprobs=num_top, logit_bias={17: 100.0}, ignore_eos=True, max_tokens=4)
    assert told.token_ids == [17] * 4
    assert [len(position.top) for position in told.logprobs] == [num_top] * 4
    assert all(position.chosen.logprob < -1 for position in told.logprobs)
    assert told.prompt_logprobs == []


@pytest.mark.parametrize("num_top", [0, 5])
def test_prompt_logprobs_cover_each_token_but_the_first(both, num_top):
    told = both.answer(prompt_logprobs=num_top)
    assert [position.chosen.token_id for position in told.prompt_logprobs] == PROMPT[1:]
    assert [len(position.top) for position in told.prompt_logprobs] == [num_top] * 4
    assert told.logprobs == []


@pytest.mark.parametrize("mode", get_args(LogprobsMode))
@pytest.mark.parametrize(
    "params",
    [
        {"logit_bias": {17: 3.0}, "repetition_penalty": 1.3, "ignore_eos": True},
        {"temperature": 0.5, "top_k": 1, "min_tokens": 8},
    ],
)
def test_each_mode_of_logprobs_is_the_same_in_both_engines(both, mode, params):
    told = both.answer(logprobs=3, logprobs_mode=mode, **params)
    tokens = [token for position in told.logprobs for token in position.top]
    has_filter = mode.startswith("processed") and "top_k" in params
    assert has_filter == any(token.logprob == MIN_LOGPROB for token in tokens)
    assert mode.endswith("logprobs") == all(token.logprob <= 0 for token in tokens)


def test_every_parameter_is_compared_between_engines():
    """Stop texts, grammars and thoughts are compared elsewhere, with their tags and sources."""
    compared = {"max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed"}
    compared |= {"stop_token_ids", "ignore_eos", "logprobs", "prompt_logprobs", "logprobs_mode"}
    compared |= {name for params in CHANGES for name in params}
    elsewhere = {"stop", "grammar", "thought"}
    assert compared == {field.name for field in fields(SamplingParams)} - elsewhere
