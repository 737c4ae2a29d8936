"""Layer fusion: models that have fused layers, and that their outputs stay the same."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from src.engine.config import EngineConfig
from src.engine.cpu_layers.native_layer import NativeLayer
from src.engine.factory import create_core
from src.engine.model.compatibility import check_logits, probe_logits
from src.engine.model.loader import LoadedModel, load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from tests.support.engines import SteppedCore
from tests.support.native import each_variant, needs_kernels
from tests.support.tiny_models import GROUPED_HEADS, SHAPE, create_tokenizer

pytestmark = needs_kernels

WIDE = {"hidden_size": 96, "num_attention_heads": 6}
"""Heads of 16, which our kernels support. Outputs fill one block and a part of the next."""

GROUPED = GROUPED_HEADS | WIDE | {"head_dim": 16}
SHAPES = {
    "gpt2": SHAPE | WIDE,
    "llama": GROUPED | {"attention_bias": True, "mlp_bias": True},
    "mistral": GROUPED | {"sliding_window": 16},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "smollm3": GROUPED | {"no_rope_layer_interval": 2},
}
NUM_FUSED = {"smollm3": 1}
"""Fused layers of two; smollm3 has a layer without RoPE, which stays."""


@pytest.fixture
def wide_model(tmp_path):
    def create(architecture: str, **changes: object):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **SHAPES[architecture] | changes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():  # norms and biases too, so that each matters
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path)
        create_tokenizer().save_pretrained(tmp_path)
        return tmp_path

    return create


def count_fused(loaded: LoadedModel) -> int:
    return sum(isinstance(layer, NativeLayer) for layer in loaded.model.modules())


def create(folder, **options):
    config = EngineConfig(
        str(folder), kv_cache_gb=0.02, num_speculative_tokens=0, **{"kernels": "native"} | options
    )
    loaded = load_model(config)
    return create_core(loaded, config), loaded


def generate(core) -> dict[str, list[int]]:
    """Runs requests of different lengths, with prefills and decodes in the same steps."""
    stepped = SteppedCore(core)
    for number, length in enumerate((3, 40, 17)):
        params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
        stepped.add(Request(str(number), [5 + number] * length, params))
        stepped.step()
    return {name: answer.token_ids for name, answer in stepped.finish().items()}


@each_variant
@pytest.mark.parametrize("architecture", SHAPES)
def test_exact_fused_layers_keep_logits_and_tokens(wide_model, architecture, kernels, monkeypatch):
    monkeypatch.setattr("src.engine.backend.load_kernels", lambda: kernels)
    monkeypatch.setattr("src.engine.model.compatibility.TOLERANCE", 1e-4)
    folder = wide_model(architecture)
    plain = load_model(EngineConfig(str(folder)))
    core, loaded = create(folder)
    assert count_fused(loaded) == NUM_FUSED.get(architecture, 2)
    check_logits(loaded, core._runner, probe_logits(plain))
    expected, unfused = create(folder, kernels="pytorch")
    assert count_fused(unfused) == 0
    assert generate(core) == generate(expected)


@pytest.mark.parametrize("architecture", SHAPES)
def test_int8_fused_layers_keep_nearly_all_tokens(wide_model, architecture, monkeypatch):
    folder = wide_model(architecture)
    core, loaded = create(folder, quantization="int8")
    assert count_fused(loaded) == NUM_FUSED.get(architecture, 2)
    monkeypatch.setattr("src.engine.backend.fuse_layers", lambda *_: 0)
    expected, unfused = create(folder, quantization="int8")
    assert count_fused(unfused) == 0
    fused_ids, unfused_ids = generate(core), generate(expected)
    same = [a == b for i in fused_ids for a, b in zip(fused_ids[i], unfused_ids[i], strict=True)]
    assert sum(same) >= 0.8 * len(same)  # inputs halfway between two integers change some tokens
    assert [ids[0] for ids in fused_ids.values()] == [ids[0] for ids in unfused_ids.values()]


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 8},
        {"intermediate_size": 72},
        {"num_attention_heads": 33, "num_key_value_heads": 1, "hidden_size": 528},
        {"hidden_act": "relu"},
    ],
)
def test_layers_that_the_kernels_do_not_support_stay(wide_model, changes):
    core, loaded = create(wide_model("llama", **changes))
    assert count_fused(loaded) == 0
    assert len(generate(core)) == 3


def test_a_layer_with_a_different_output_stays(wide_model, monkeypatch):
    from transformers.models.llama import modeling_llama

    original = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(
        modeling_llama.LlamaMLP, "forward", lambda self, hidden: 1.1 * original(self, hidden)
    )
    _, loaded = create(wide_model("llama"))
    assert count_fused(loaded) == 0


def test_layers_of_unknown_model_types_stay(tiny_model):
    _, loaded = create(tiny_model("gemma3_text"))
    assert count_fused(loaded) == 0


def test_a_sequence_with_nan_fails_alone(wide_model):
    core, loaded = create(wide_model("qwen3"))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[7] = torch.nan
    stepped = SteppedCore(core, may_fail=True)
    params = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
    stepped.add(Request("bad", [5, 7, 9], params), Request("good", [5, 6, 9], params))
    answers = stepped.finish()
    assert answers["bad"].reason is FinishReason.ERROR
    assert len(answers["good"].token_ids) == 5
