"""The compatibility check accepts models that run on our attention, and no others."""

from collections.abc import Callable
from functools import partial, wraps
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from src.engine.attention.kv_cache import CacheLayout, LayerShape, widest_window
from src.engine.attention.packed_attention import PackedAttention
from src.engine.backend import TORCH_BACKEND
from src.engine.config import EngineConfig
from src.engine.factory import create_core, create_engine
from src.engine.loop import EngineLoop
from src.engine.model import compatibility
from src.engine.model.compatibility import (
    PROBE_BLOCK_SIZE,
    IncompatibleModelError,
    check_for_states,
    check_logits,
    check_model,
    find_layers,
    probe_logits,
)
from src.engine.model.loader import LoadedModel, load_model
from src.engine.reference.engine import ReferenceEngine
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from tests.support.engines import TOLERANCE, Harness, create_request, oracle
from tests.support.tiny_models import BATCHED, FAMILIES, STATEFUL, UNUSUAL

CONFIG = EngineConfig("unused", max_num_seqs=2, kv_cache_gb=0.01)


@pytest.fixture
def load(tiny_model) -> Callable[[str], LoadedModel]:
    return lambda architecture: load_model(EngineConfig(str(tiny_model(architecture))))


@pytest.fixture
def llama(load) -> LoadedModel:
    return load("llama")


def change_forward(loaded: LoadedModel, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The model's logits become `change(logits)`."""
    real = loaded.model.forward

    @wraps(real)
    def forward(*args: object, **kwargs: object) -> object:
        output = real(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    loaded.model.forward = forward


@pytest.mark.parametrize("architecture", BATCHED)
def test_a_model_whose_attention_is_transformers_runs_batched(load, architecture):
    harness = Harness(lambda receive: create_engine(load(architecture), CONFIG, receive))
    harness.close()
    assert isinstance(harness.engine, EngineLoop)


def test_a_model_whose_attention_cannot_be_replaced_runs_on_the_reference_engine(load, caplog):
    loaded = load("bloom")
    expected = oracle(loaded, do_sample=False)
    with pytest.raises(IncompatibleModelError, match="interface"):
        find_layers(loaded)
    harness = Harness(lambda receive: create_engine(loaded, CONFIG, receive))
    assert isinstance(harness.engine, ReferenceEngine)
    assert harness.run(create_request(temperature=0))[0] == expected
    harness.close()
    assert "one request at a time, on the reference engine: its attention does not" in caplog.text


@pytest.mark.parametrize("architecture", UNUSUAL)
def test_a_model_gives_its_own_logprobs_on_whichever_engine_it_gets(load, architecture):
    prompt = [3 + number * 7 % 300 for number in range(110)]
    with torch.inference_mode():
        logits = load(architecture).model(torch.tensor([prompt]), use_cache=False).logits[0]
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, logprobs=0)
    harness = Harness(lambda receive: create_engine(load(architecture), CONFIG, receive))
    answer = harness.add(Request("a", prompt, params)).answer()
    harness.close()
    found = [position.chosen for position in (*answer.prompt_logprobs, *answer.logprobs)]
    token_ids = torch.tensor([*prompt[1:], int(logits[-1].argmax())])
    expected = logits.log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0].tolist()
    assert [one.token_id for one in found] == token_ids.tolist()
    assert [one.logprob for one in found] == pytest.approx(expected, abs=TOLERANCE)


def test_layers_are_found_with_what_they_keep_of_a_token(load):
    assert find_layers(load("gpt2")) == {0: LayerShape(4, 8, 8), 1: LayerShape(4, 8, 8)}
    assert find_layers(load("llama")) == {0: LayerShape(2, 8, 8), 1: LayerShape(2, 8, 8)}
    assert find_layers(load("mistral")) == {
        0: LayerShape(2, 16, 16, window=16),
        1: LayerShape(2, 16, 16, window=16),
    }


@pytest.mark.parametrize(
    ("windows", "widest"), [((16, 32), 32), ((16, None), None), ((None, None), None)]
)
def test_the_widest_window_is_none_if_a_layer_has_none(windows, widest):
    assert widest_window(dict(enumerate(LayerShape(1, 8, 8, one) for one in windows))) == widest


def test_looking_for_layers_leaves_the_model_as_it_was(llama):
    before = probe_logits(llama)
    find_layers(llama)
    assert torch.equal(probe_logits(llama), before)


def test_a_model_that_asks_for_what_we_do_not_know_is_refused_by_name(llama):
    real = llama.model.forward
    llama.model.forward = lambda *args, **kwargs: real(*args, **kwargs, alibi=1.0, unused=None)
    with pytest.raises(IncompatibleModelError, match=r"uses the options alibi$"):
        find_layers(llama)


@pytest.mark.parametrize("difference", [1.5 * compatibility.TOLERANCE, torch.nan])
def test_a_model_that_gives_other_logprobs_in_pieces_is_refused_with_the_difference(
    llama, difference
):
    expected = probe_logits(llama).clone()
    expected[7] += difference
    layout = CacheLayout(1, PROBE_BLOCK_SIZE, torch.float32)
    runner = TORCH_BACKEND.create_runner(llama, find_layers(llama), layout)
    with pytest.raises(IncompatibleModelError, match=r"differ by (0\.0075|nan)"):
        check_logits(llama, runner, expected)


def test_a_model_that_must_see_its_prompt_as_a_whole_runs_on_the_reference_engine(llama, caplog):
    expected = oracle(llama, do_sample=False)
    change_forward(llama, lambda logits: logits * (1 + logits.shape[1]))  # the order is the same
    harness = Harness(lambda receive: create_engine(llama, CONFIG, receive))
    assert isinstance(harness.engine, ReferenceEngine)
    assert harness.run(create_request(temperature=0))[0] == expected
    harness.close()
    assert "its log-probabilities differ by" in caplog.text


def test_the_check_leaves_the_model_as_it_was(llama):
    before = probe_logits(llama)
    check_model(llama, partial(TORCH_BACKEND.create_runner, llama))
    assert torch.equal(probe_logits(llama), before)


def test_a_context_shorter_than_the_probe_is_enough(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), max_model_len=10, kv_cache_gb=0.01)
    assert create_core(load_model(config), config).max_num_seqs == config.max_num_seqs


@pytest.fixture(params=["bfloat16", "float16"])
def storyteller_in_16_bits(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(EngineConfig("storyteller", device="cpu", dtype=request.param))


def test_a_trained_model_in_16_bits_runs_batched(storyteller_in_16_bits):
    check_model(
        storyteller_in_16_bits, partial(TORCH_BACKEND.create_runner, storyteller_in_16_bits)
    )


@pytest.mark.parametrize("wrong", [{"scaling": 1.1}, {"window": 32}], ids=str)
def test_wrong_attention_in_16_bits_is_refused(storyteller_in_16_bits, monkeypatch, wrong):
    real = PackedAttention.__call__

    def call(
        attention: PackedAttention,
        module: torch.nn.Module,
        query: torch.Tensor,
        *tensors: torch.Tensor,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **options: object,
    ) -> object:
        scaling = (scaling or query.shape[-1] ** -0.5) * wrong.get("scaling", 1)
        window = wrong.get("window", sliding_window)
        return real(
            attention, module, query, *tensors, scaling=scaling, sliding_window=window, **options
        )

    monkeypatch.setattr(PackedAttention, "__call__", call)
    with pytest.raises(IncompatibleModelError, match="from the original model's"):
        check_model(
            storyteller_in_16_bits, partial(TORCH_BACKEND.create_runner, storyteller_in_16_bits)
        )


@pytest.mark.parametrize("architecture", STATEFUL)
def test_layers_with_a_state_are_refused_by_their_kind(architecture):
    shape, kind = STATEFUL[architecture]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape))
    loaded = SimpleNamespace(model=model, max_model_len=64, vocab_size=320)
    with pytest.raises(IncompatibleModelError, match=rf"^layers keep a state: .*\b{kind}\b"):
        check_for_states(loaded)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_layers_with_keys_and_values_alone_pass(architecture):
    config = AutoConfig.for_model(architecture.split()[0], **FAMILIES[architecture])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    check_for_states(SimpleNamespace(model=model))
