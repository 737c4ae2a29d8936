"""What every engine keeps: each request ends, with what is its own, whatever happens to others."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import GenerationConfig

from src.engine.config import EngineConfig
from src.engine.factory import create_engine
from src.engine.model_loader import LoadedModel, load_model
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import EngineDeadError
from tests.conftest import wait_until
from tests.engines import PROMPT, Harness, create_request, oracle
from tests.tiny_models import ARCHITECTURES, create_tokenizer

POISON = 200


@pytest.fixture
def gpt2(tiny_model) -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model("gpt2"))))


@pytest.fixture(params=["continuous", "reference"])
def start_engine(request) -> Iterator[Callable[..., Harness]]:
    """Starts engines of each kind, and after the test finds no request left over in any."""
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
    plain, _ = start_engine(gpt2).run(create_request(temperature=0))
    gpt2.model.save_pretrained(tmp_path)
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


def test_an_abort_of_nothing_is_nothing(gpt2, start_engine):
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
    assert engine.engine.intake.is_open


def test_when_the_thread_dies_everybody_is_told(gpt2, start_engine):
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
    wait_until(lambda: not engine.engine.intake.is_open)
    with pytest.raises(EngineDeadError):
        engine.add(create_request("late"))


def test_shutdown_aborts_what_runs_and_what_waits(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    running = engine.add(create_request("running", max_tokens=100))
    waiting = engine.add(create_request("waiting"))
    running.next()
    engine.engine.shutdown()
    assert running.all()[1] is FinishReason.ABORT
    assert waiting.all()[1] is FinishReason.ABORT
