"""Quantization: supported models, the change of logits, and messages."""

import pytest
import torch
from torch import nn

from src.engine.config import EngineConfig
from src.engine.cpu_layers.linear import (
    TORCH_LINEARS,
    FastLinear,
    PackedLinear,
    create_torch_linear,
)
from src.engine.cpu_layers.quantization import quantize
from src.engine.factory import create_core, create_engine
from src.engine.model.compatibility import probe_token_ids
from src.engine.model.loader import load_model
from src.engine.reference.engine import ReferenceEngine
from src.errors import ModelLoadError
from tests.support.tiny_models import BATCHED

ROUNDED = [kind for kind in TORCH_LINEARS if kind != "none"]


def find_linears(model):
    return [layer for layer in model.modules() if isinstance(layer, FastLinear)]


@torch.inference_mode()
@pytest.mark.parametrize("architecture", [*BATCHED, "bloom"])
@pytest.mark.parametrize("kind", TORCH_LINEARS)
def test_quantized_logits_are_close_to_the_exact_ones(tiny_model, architecture, kind):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    token_ids = probe_token_ids(loaded)
    plain = loaded.model(token_ids, use_cache=False).logits
    embedding = loaded.model.get_input_embeddings().weight.clone()
    quantize(loaded, kind, create_torch_linear)
    assert {type(layer) for layer in find_linears(loaded.model)} == {TORCH_LINEARS[kind]}
    rounded = loaded.model(token_ids, use_cache=False).logits
    allowed = {"none": 1e-5, "fp16": 2e-3, "int8": 0.1}[kind]
    assert (rounded - plain).norm() <= allowed * plain.norm()
    assert torch.equal(loaded.model.get_input_embeddings().weight, embedding)


@pytest.mark.parametrize("kind", ROUNDED)
def test_both_engines_run_the_quantized_model(tiny_model, kind, caplog):
    caplog.set_level("INFO")
    config = EngineConfig(
        str(tiny_model("gpt2")), quantization=kind, kernels="pytorch", kv_cache_gb=0.01
    )
    loaded = load_model(config)
    create_core(loaded, config)
    assert {type(layer) for layer in find_linears(loaded.model)} == {TORCH_LINEARS[kind]}
    assert f"QUANTIZATION={kind}: 9 linear layers replaced" in caplog.text

    config = EngineConfig(
        str(tiny_model("bloom")), quantization=kind, kernels="pytorch", kv_cache_gb=0.01
    )
    loaded = load_model(config)
    engine = create_engine(loaded, config, lambda update: None)
    engine.shutdown()
    assert isinstance(engine, ReferenceEngine)
    assert {type(layer) for layer in find_linears(loaded.model)} == {TORCH_LINEARS[kind]}


def test_the_reference_engine_keeps_the_layers_of_an_exact_model(tiny_model):
    config = EngineConfig(str(tiny_model("gpt2")), engine="reference")
    loaded = load_model(config)
    create_engine(loaded, config, lambda update: None).shutdown()
    assert not find_linears(loaded.model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_exact_model_may_have_any_dtype(tiny_model, dtype, caplog):
    caplog.set_level("INFO")
    loaded = load_model(EngineConfig(str(tiny_model("gpt2")), dtype=dtype))
    quantize(loaded, "none", create_torch_linear)  # its activation is replaced
    assert not find_linears(loaded.model)
    assert "QUANTIZATION=none: 0 linear layers" in caplog.text


def test_a_layer_with_a_different_output_is_refused(tiny_model, monkeypatch):
    loaded = load_model(EngineConfig(str(tiny_model("llama"))))
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: rows @ self.weight.T * 30)
    with pytest.raises(ModelLoadError, match=r"QUANTIZATION=none changes this model too much"):
        quantize(loaded, "none", create_torch_linear)


def test_a_model_in_16_bits_is_refused_with_the_remedy(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", quantization="int8")
    with pytest.raises(ModelLoadError, match=r"model is bfloat16 on cpu.*DTYPE=float32"):
        create_core(load_model(config), config)


def test_a_model_that_quantization_changes_too_much_is_refused_with_the_divergence(tiny_model):
    loaded = load_model(EngineConfig(str(tiny_model("llama"))))
    model = loaded.model
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)  # probabilities of 0 and 1, which noise exchanges
        model.lm_head.weight[:, 0] = 1e6 * torch.randn(len(model.lm_head.weight))
    with pytest.raises(ModelLoadError, match=r"diverge by \d.* Use QUANTIZATION=none or fp16\."):
        quantize(loaded, "int8", create_torch_linear)


def test_a_model_without_linear_layers_cannot_be_quantized(tiny_model):
    class Own(nn.Linear):
        pass

    loaded = load_model(EngineConfig(str(tiny_model("llama"))))
    for layer in loaded.model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Own
    with pytest.raises(ModelLoadError, match="no linear layers"):
        quantize(loaded, "fp16", create_torch_linear)
