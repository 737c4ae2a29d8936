"""ReferenceEngine gives HuggingFace's own tokens, one request at a time, and survives bad ones."""

import queue
import threading
from collections.abc import Iterator

import pytest
import torch
from transformers import GenerationConfig

from src.engine.config import EngineConfig
from src.engine.model_loader import LoadedModel, load_model
from src.engine.reference import ReferenceEngine
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import EngineDeadError
from tests.conftest import wait_until
from tests.tiny_models import ARCHITECTURES, create_tokenizer

PROMPT = [70, 80, 90, 100, 110]


class Outputs:
    """Collects what an engine says of one request."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[RequestOutput] = queue.SimpleQueue()

    def __call__(self, output: RequestOutput) -> None:
        self._queue.put(output)

    def next(self) -> RequestOutput:
        return self._queue.get(timeout=60)

    def all(self) -> tuple[list[int], FinishReason]:
        token_ids: list[int] = []
        while True:
            output = self.next()
            token_ids += output.new_token_ids
            if output.finish_reason:
                return token_ids, output.finish_reason


@pytest.fixture(params=list(ARCHITECTURES))
def loaded(request, tiny_model) -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model(request.param))))


@pytest.fixture
def gpt2(tiny_model) -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model("gpt2"))))


@pytest.fixture
def start_engine() -> Iterator[object]:
    """Starts engines, and after the test finds no request left over in any."""
    engines: list[ReferenceEngine] = []

    def start(loaded: LoadedModel) -> ReferenceEngine:
        engines.append(ReferenceEngine(loaded))
        return engines[-1]

    yield start
    for engine in engines:
        engine.shutdown()
        assert engine.num_live == 0


def create_request(request_id: str = "a", **params: object) -> Request:
    return Request(request_id, PROMPT, SamplingParams(**({"max_tokens": 20} | params)))


def run(engine: ReferenceEngine, request: Request) -> tuple[list[int], FinishReason]:
    outputs = Outputs()
    engine.add_request(request, outputs)
    return outputs.all()


def oracle(loaded: LoadedModel, max_tokens: int = 20, **options: object) -> list[int]:
    """What a caller of HuggingFace's library gets for the same."""
    prompt = torch.tensor([PROMPT])
    options = {"max_new_tokens": max_tokens, "pad_token_id": 0, "eos_token_id": 0} | options
    output = loaded.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return output[0, len(PROMPT) :].tolist()


def test_greedy_tokens_are_those_of_generate(loaded, start_engine):
    token_ids, _ = run(start_engine(loaded), create_request(temperature=0))
    assert token_ids == oracle(loaded, do_sample=False)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.5, "top_p": 1.0, "top_k": 5},
    ],
)
def test_seeded_tokens_are_those_of_a_seeded_generate(gpt2, start_engine, params):
    token_ids, _ = run(start_engine(gpt2), create_request(seed=7, **params))
    torch.manual_seed(7)
    assert token_ids == oracle(gpt2, do_sample=True, **({"top_k": 0} | params))


def test_the_models_own_sampling_defaults_do_not_count(gpt2, start_engine, tmp_path):
    plain, _ = run(start_engine(gpt2), create_request(temperature=0))
    gpt2.model.save_pretrained(tmp_path)
    create_tokenizer().save_pretrained(tmp_path)
    GenerationConfig(repetition_penalty=5.0, max_length=7).save_pretrained(tmp_path)
    other = load_model(EngineConfig(str(tmp_path)))
    assert run(start_engine(other), create_request(temperature=0))[0] == plain


def test_ends_with_the_end_token_or_at_the_length(gpt2, start_engine):
    token_ids = oracle(gpt2, do_sample=False)
    engine = start_engine(gpt2)
    request = create_request("length", max_tokens=3, temperature=0)
    assert run(engine, request) == (token_ids[:3], FinishReason.LENGTH)
    gpt2.eos_token_ids[:] = [token_ids[2]]
    first = token_ids.index(token_ids[2]) + 1
    assert run(engine, create_request("stop", temperature=0)) == (
        token_ids[:first],
        FinishReason.STOP,
    )


def test_an_end_token_at_the_length_is_a_stop(gpt2, start_engine):
    token_ids = oracle(gpt2, do_sample=False)
    gpt2.eos_token_ids[:] = [token_ids[0]]
    request = create_request(max_tokens=1, temperature=0)
    assert run(start_engine(gpt2), request) == (token_ids[:1], FinishReason.STOP)


def test_a_seed_decides_its_own_request_alone(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    texts = []
    for number, seed in enumerate([7, None, 7, None]):
        request = create_request(str(number), seed=seed, temperature=2.0, top_p=1.0)
        texts.append(run(engine, request)[0])
    assert texts[0] == texts[2]
    assert texts[1] != texts[3]


def test_requests_run_in_the_order_they_came(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine, seen = start_engine(gpt2), []
    done = Outputs()
    for name in "abc":
        engine.add_request(create_request(name), lambda output: seen.append(output.request_id))
    engine.add_request(create_request("d"), done)
    done.all()
    assert seen == sorted(seen)
    assert set(seen) == set("abc")


def test_an_abort_ends_a_running_request_within_a_token(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    seen, outputs = threading.Event(), Outputs()

    def on_output(output: RequestOutput) -> None:
        outputs(output)
        if not seen.is_set():
            engine.abort_request("a")
            seen.set()

    engine.add_request(create_request(max_tokens=100), on_output)
    token_ids, reason = outputs.all()
    assert reason is FinishReason.ABORT
    assert len(token_ids) <= 2


def test_an_abort_ends_a_waiting_request_without_running_it(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    first, second = Outputs(), Outputs()
    engine.add_request(create_request("first", max_tokens=100), first)
    engine.add_request(create_request("second"), second)
    engine.abort_request("second")
    assert second.all() == ([], FinishReason.ABORT)
    assert first.all()[1] is FinishReason.LENGTH


def test_an_abort_of_nothing_is_nothing(gpt2, start_engine):
    start_engine(gpt2).abort_request("never heard of")


def test_a_failing_request_fails_alone(gpt2, start_engine):
    engine = start_engine(gpt2)
    real, calls = gpt2.model.forward, 0

    def fail_at_third_token(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("made to fail")
        return real(*args, **kwargs)

    gpt2.eos_token_ids.clear()
    gpt2.model.forward = fail_at_third_token
    bad, good = Outputs(), Outputs()
    engine.add_request(create_request("bad"), bad)
    engine.add_request(create_request("good"), good)
    token_ids, reason = bad.all()
    assert (len(token_ids), reason) == (2, FinishReason.ERROR)
    assert good.all()[1] is FinishReason.LENGTH
    assert engine.is_alive


def test_when_the_thread_dies_everybody_is_told(gpt2, start_engine):
    engine = start_engine(gpt2)
    running, waiting = Outputs(), Outputs()
    both_there = threading.Event()

    def die(*args: object, **kwargs: object) -> object:
        both_there.wait(60)
        raise SystemExit("made to die")

    gpt2.model.forward = die
    engine.add_request(create_request("running"), running)
    engine.add_request(create_request("waiting"), waiting)
    both_there.set()
    assert running.all() == ([], FinishReason.ERROR)
    assert waiting.all() == ([], FinishReason.ERROR)
    wait_until(lambda: not engine.is_alive)
    with pytest.raises(EngineDeadError):
        engine.add_request(create_request("late"), Outputs())


def test_shutdown_aborts_what_runs_and_what_waits(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    running, waiting = Outputs(), Outputs()
    engine.add_request(create_request("running", max_tokens=100), running)
    engine.add_request(create_request("waiting"), waiting)
    running.next()
    engine.shutdown()
    assert running.all()[1] is FinishReason.ABORT
    assert waiting.all() == ([], FinishReason.ABORT)
