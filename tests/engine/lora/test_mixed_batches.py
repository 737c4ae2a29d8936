"""Sequences of several adapters and of the base model in one batch, against peft itself."""

from pathlib import Path

import pytest

from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.lora.adapter import LoraAdapter
from src.engine.lora.checkpoint import load_adapter
from src.engine.lora.state import LoraState
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from tests.support.adapters import peft_answer, write_adapter
from tests.support.engines import SteppedCore

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning:"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),
]

ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma2", "mistral")
ADAPTERS: dict[str, dict[str, object]] = {
    "rank 1": {"r": 1},
    "rank 16": {"r": 16, "use_rslora": True},
    "rank 64": {"r": 64, "lora_alpha": 8},
}
PROMPT = [70, 80, 90, 100, 110]
MAX_TOKENS = 12


def create(folder: Path, **settings: object) -> tuple[SteppedCore, LoraState]:
    config = EngineConfig(str(folder), max_num_seqs=8, kv_cache_gb=0.01, **settings)
    state = LoraState()
    return SteppedCore(create_core(load_model(config), config, state)), state


def request(name: str, adapter: LoraAdapter | None = None, **options: object) -> Request:
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, logprobs=0)
    return Request(name, PROMPT, params, adapter=adapter, **options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_row_is_that_of_peft(tiny_model, tmp_path, architecture):
    folder = tiny_model(architecture)
    core, state = create(folder)
    alone = SteppedCore(core.core)
    alone.add(request("base"))
    expected_base = alone.finish()["base"]
    paths = {
        name: write_adapter(folder, tmp_path / name, seed, **options)
        for seed, (name, options) in enumerate(ADAPTERS.items())
    }
    adapters = {name: load_adapter(name, path, 64, state) for name, path in paths.items()}
    core.add(request("base"), *(request(name, one) for name, one in adapters.items()))
    core.add(request("base again"))
    answers = core.finish()
    for name, path in paths.items():
        expected = peft_answer(folder, path, PROMPT, MAX_TOKENS)
        assert answers[name].token_ids == expected, name
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == len(paths) + 1
    for name in ("base", "base again"):
        assert answers[name].token_ids == expected_base.token_ids


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_rows_without_adapter_are_unchanged_bit_for_bit(tiny_model, tmp_path, quantization):
    folder = tiny_model("llama")
    core, state = create(folder, quantization=quantization)
    core.add(request("a"), request("b", tenant="other"))
    expected = core.finish()["a"]
    adapter = load_adapter("x", write_adapter(folder, tmp_path / "x"), 64, state)
    core.add(request("base", tenant="third"), request("adapted", adapter))
    answers = core.finish()
    assert answers["base"].logprobs == expected.logprobs
    assert answers["adapted"].token_ids != expected.token_ids


def test_prefixes_are_not_shared_with_another_adapter(tiny_model, tmp_path):
    folder = tiny_model("llama")
    core, state = create(folder)
    adapter = load_adapter("x", write_adapter(folder, tmp_path / "x"), 64, state)
    params = SamplingParams(max_tokens=2, temperature=0)
    long = [70 + number % 50 for number in range(60)]
    cached = []
    for name, one in (("a", adapter), ("b", None), ("c", adapter)):
        core.add(Request(name, long, params, adapter=one))
        answer = core.finish()[name]
        assert answer.admission is not None
        cached.append(answer.admission.num_cached_tokens)
    assert cached[:2] == [0, 0]
    assert cached[2] > 0
