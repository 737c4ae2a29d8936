"""EngineCore on real tiny models: whatever is in the batch, each request's tokens are its own."""

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.engine.compatibility import IncompatibleModelError, find_layers
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core, create_engine
from src.engine.model_loader import load_model
from src.engine.reference import ReferenceEngine
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.errors import ModelLoadError
from tests.tiny_models import ARCHITECTURES, VOCAB_SIZE

BATCHED = [name for name in ARCHITECTURES if name != "gpt_neo"]


def create_small_core(folder: Path, max_num_seqs: int = 3, budget: int = 7) -> EngineCore:
    """A core that has to chunk prompts, queue requests and use slots again."""
    config = EngineConfig(
        str(folder), max_num_seqs=max_num_seqs, max_num_batched_tokens=budget, kv_cache_gb=0.001
    )
    return create_core(load_model(config), config)


def run(core: EngineCore, requests: list[Request]) -> dict[str, list[int]]:
    """Steps until all have ended; returns their tokens."""
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        core.add(request)
    while core.has_work:
        for output in core.step().outputs:
            tokens[output.request_id] += output.new_token_ids
            assert output.finish_reason in (None, FinishReason.STOP, FinishReason.LENGTH)
    return tokens


def create_requests(num_requests: int, **params: object) -> list[Request]:
    """Prompts of many lengths; some share a beginning, some are the same."""
    generator = torch.Generator().manual_seed(num_requests)
    base = torch.randint(2, VOCAB_SIZE, (60,), generator=generator).tolist()
    requests = []
    for number in range(num_requests):
        own = torch.randint(2, VOCAB_SIZE, (number * 7 % 40 + 1,), generator=generator).tolist()
        prompt = base[: number * 11 % 60] + (own if number % 3 else [])
        sampling_params = SamplingParams(max_tokens=12, **params)
        requests.append(Request(str(number), prompt or [5], sampling_params))
    return requests


@pytest.mark.parametrize("architecture", BATCHED)
def test_greedy_tokens_in_a_mixed_load_are_those_of_generate(tiny_model, architecture):
    requests = create_requests(9, temperature=0)
    tokens = run(create_small_core(tiny_model(architecture)), requests)
    model = load_model(EngineConfig(str(tiny_model(architecture)))).model
    for request in requests:
        prompt = torch.tensor([request.prompt_token_ids])
        expected = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
        )
        assert tokens[request.request_id] == expected[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_p": 1.0, "temperature": 1.5}])
def test_a_seeded_request_gives_the_same_tokens_alone_and_in_a_full_batch(tiny_model, params):
    requests = create_requests(9, seed=11, **params)
    together = run(create_small_core(tiny_model("llama")), requests)
    for request in requests:
        alone = run(create_small_core(tiny_model("llama")), [request])
        assert alone[request.request_id] == together[request.request_id]


def test_a_prompt_that_is_cached_gives_the_same_tokens(tiny_model):
    core = create_small_core(tiny_model("qwen2"))
    (request,) = create_requests(1, temperature=0)
    first = run(core, [request])
    assert run(core, [request]) == first


CORES: dict[str, EngineCore] = {}


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_order_of_adds_steps_and_aborts_leaves_each_request_its_own_tokens(tiny_model, data):
    folder = tiny_model("gemma2")
    core = CORES.setdefault("gemma2", create_small_core(folder))
    assert not core.has_work
    requests = create_requests(8, seed=3, temperature=1.2)
    tokens: dict[str, list[int]] = {}
    ended: set[str] = set()

    def step() -> None:
        for output in core.step().outputs:
            tokens[output.request_id] += output.new_token_ids
            if output.finish_reason:
                ended.add(output.request_id)

    for index, request in enumerate(requests):
        core.add(request)
        tokens[request.request_id] = []
        for _ in range(data.draw(st.integers(0, 6))):
            if core.has_work:
                step()
        victim = str(data.draw(st.integers(0, 2 * index + 1)))  # half of them are nobody
        if victim in tokens and victim not in ended:
            assert core.abort(victim).outputs
            del tokens[victim]
    while core.has_work:
        step()
    for name, found in tokens.items():
        assert found == tokens_alone(folder, int(name)), name


@cache
def tokens_alone(folder: Path, number: int) -> list[int]:
    core = CORES.setdefault("alone", create_small_core(folder, max_num_seqs=1))
    (request,) = [create_requests(8, seed=3, temperature=1.2)[number]]
    return run(core, [request])[request.request_id]


def test_a_slot_that_held_what_is_no_number_harms_no_one(tiny_model):
    core = create_small_core(tiny_model("gpt2"), max_num_seqs=1)
    model = core._runner._model
    requests = create_requests(2, temperature=0)
    expected = run(core, requests)
    weight = model.transformer.wte.weight
    whole = weight.detach().clone()
    with torch.no_grad():
        weight[7] = torch.nan
    core.add(Request("bad", [7] * 20, SamplingParams()))
    reasons = []
    while core.has_work:
        reasons += [output.finish_reason for output in core.step().outputs]
    assert reasons == [FinishReason.ERROR]
    with torch.no_grad():
        weight.copy_(whole)
    assert run(core, requests) == expected


def test_a_model_whose_attention_cannot_be_replaced_runs_on_the_reference_engine(
    tiny_model, caplog
):
    loaded = load_model(EngineConfig(str(tiny_model("gpt_neo"))))
    with pytest.raises(IncompatibleModelError, match="interface"):
        find_layers(loaded)
    engine = create_engine(loaded, EngineConfig("unused"), lambda _: None)
    assert isinstance(engine, ReferenceEngine)
    engine.shutdown()
    assert "one request at a time" in caplog.text


def test_memory_for_less_than_one_sequence_is_refused_with_the_figures(tiny_model):
    config = EngineConfig(str(tiny_model("gpt2")), kv_cache_gb=1e-6)
    with pytest.raises(ModelLoadError, match=r"one sequence of 128 tokens needs .* GiB"):
        create_core(load_model(config), config)
