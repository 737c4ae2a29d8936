"""Choice of the backend by the setting KERNELS, by the model and by what was built."""

import pytest
import torch

from src.engine.config import EngineConfig
from src.engine.cpu_layers.linear import FastLinear
from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.factory import create_core, create_engine
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.errors import ModelLoadError
from tests.support.engines import SteppedCore
from tests.support.native import BACKENDS, needs_kernels


@needs_kernels
def test_linear_layers_are_native_where_the_kernels_support_them():
    weight = torch.randn(8, 32)
    for name in BACKENDS.keys() - {"pytorch"}:
        create_linear = BACKENDS[name].create_linear
        assert type(create_linear(weight, None, "none")) is NativeLinear
        assert type(create_linear(weight[:, :31], None, "none")) is NativeLinear
        assert type(create_linear(weight, None, "int8")) is NativeInt8Linear
        for kind in ("int8", "fp16"):
            layer = create_linear(weight[:, :24], None, kind)
            assert not isinstance(layer, NativeLinear | NativeInt8Linear)


@needs_kernels
@pytest.mark.parametrize("kernels", ["auto", "native", "pytorch"])
def test_the_setting_chooses_the_kernels(tiny_model, kernels, caplog):
    caplog.set_level("INFO")
    config = EngineConfig(str(tiny_model("llama")), kernels=kernels, kv_cache_gb=0.01)
    loaded = load_model(config)
    create_core(loaded, config)
    layers = {type(layer) for layer in loaded.model.modules() if isinstance(layer, FastLinear)}
    assert (layers == {NativeLinear}) == (kernels != "pytorch")
    assert (f"KERNELS={kernels}: our own kernels" in caplog.text) == (kernels != "pytorch")


def test_a_model_in_16_bits_runs_on_pytorchs_kernels(tiny_model, caplog):
    caplog.set_level("INFO")
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", kv_cache_gb=0.01)
    create_core(load_model(config), config)
    assert "KERNELS=auto: PyTorch's kernels; our own cannot be used: they need" in caplog.text
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", kernels="native")
    with pytest.raises(ModelLoadError, match=r"they need float32 on a CPU\. Use DEVICE=cpu"):
        create_core(load_model(config), config)


def test_the_reference_engine_refuses_native_kernels_for_an_exact_model(tiny_model):
    config = EngineConfig(str(tiny_model("gpt2")), engine="reference", kernels="native")
    with pytest.raises(ModelLoadError, match=r"^KERNELS=native: the reference engine runs"):
        create_engine(load_model(config), config, lambda update: None)


def test_a_server_without_built_kernels_runs_on_pytorchs_and_says_so(
    tiny_model, caplog, monkeypatch
):
    caplog.set_level("INFO")
    monkeypatch.setattr("src.engine.backend.load_kernels", lambda: None)
    config = EngineConfig(str(tiny_model("llama")), kv_cache_gb=0.01)
    create_core(load_model(config), config)
    assert "KERNELS=auto: PyTorch's kernels; our own cannot be used: none were built" in caplog.text
    config = EngineConfig(str(tiny_model("llama")), kernels="native")
    with pytest.raises(ModelLoadError, match=r"^KERNELS=native: .* none were built"):
        create_core(load_model(config), config)


@needs_kernels
@pytest.mark.parametrize("architecture", ["mistral", "qwen3", "gemma3_text"])
def test_int8_tokens_of_a_request_do_not_depend_on_others(tiny_model, architecture):
    def run(num_others: int) -> list[int]:
        config = EngineConfig(
            str(tiny_model(architecture)),
            quantization="int8",
            kv_cache_gb=0.01,
            num_speculative_tokens=0,
        )
        stepped = SteppedCore(create_core(load_model(config), config))
        params = SamplingParams(max_tokens=40, temperature=1, seed=1, ignore_eos=True)
        stepped.add(Request("first", [5, 6, 7], params))
        stepped.add(*(Request(str(number), [8 + number], params) for number in range(num_others)))
        return stepped.finish()["first"].token_ids

    assert run(0) == run(5)
