"""Choice of the backend by the setting KERNELS, by the model and by what was built."""

from unittest import mock

import pytest
import torch

from src.engine import factory
from src.engine.attention.varlen_attention import VarlenAttention
from src.engine.backend import FLASH_BACKEND, TORCH_BACKEND, choose_backend
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


@pytest.mark.parametrize(
    ("kernels", "is_supported", "passes_trial", "expected"),
    [
        ("auto", True, True, FLASH_BACKEND),
        ("auto", True, False, TORCH_BACKEND),
        ("auto", False, True, TORCH_BACKEND),
        ("pytorch", True, True, TORCH_BACKEND),
    ],
)
def test_flash_attention_is_used_if_it_is_supported_and_passes_its_trial(
    tiny_model, monkeypatch, kernels, is_supported, passes_trial, expected
):
    monkeypatch.setattr(factory, "is_supported", lambda *_: is_supported)
    monkeypatch.setattr(factory, "passes_trial", lambda *_: passes_trial)
    config = EngineConfig(str(tiny_model("llama")), kernels=kernels, dtype="bfloat16")
    assert factory._choose_backend(load_model(config), config) is expected
    assert type(FLASH_BACKEND.attention) is VarlenAttention


def test_native_kernels_are_refused_for_a_model_that_flash_attention_supports():
    with pytest.raises(ModelLoadError, match=r"^KERNELS=native: our own kernels cannot be used"):
        choose_backend("native", is_float32_on_cpu=False, has_flash_attention=True)


def test_attention_by_cudnn_is_off(tiny_model):
    torch.backends.cuda.enable_cudnn_sdp(True)
    config = EngineConfig(str(tiny_model("llama")), kv_cache_gb=0.01)
    create_core(load_model(config), config)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_free_memory_on_cuda_is_measured_after_the_allocator_has_given_back_its_own():
    with mock.patch.multiple(torch.cuda, empty_cache=mock.DEFAULT, mem_get_info=mock.DEFAULT) as of:
        calls = mock.Mock()
        for name, function in of.items():
            calls.attach_mock(function, name)
        of["mem_get_info"].return_value = (1000, 2000)
        budget = factory._memory_budget(torch.device("cuda"), EngineConfig("a"))
    assert budget == 800
    assert [call[0] for call in calls.mock_calls] == ["empty_cache", "mem_get_info"]
