"""Adapted models run on our attention, and are as before with their own."""

from functools import partial

import pytest
import torch

from src.engine.backend import TORCH_BACKEND
from src.engine.config import EngineConfig
from src.engine.model import loader
from src.engine.model.compatibility import (
    IncompatibleModelError,
    check_model,
    find_layers,
    probe_logits,
)
from src.engine.model.loader import load_model
from tests.support.engines import oracle

ADAPTED = ["gpt_neo", "gptj", "codegen"]


@pytest.mark.parametrize("architecture", ADAPTED)
def test_only_an_adapted_model_can_run_on_our_attention(tiny_model, monkeypatch, architecture):
    config = EngineConfig(str(tiny_model(architecture)))
    adapted = load_model(config)
    monkeypatch.setattr(loader, "adapt_attention", lambda model: None)
    original = load_model(config)
    assert find_layers(adapted).keys() == {0, 1}
    with pytest.raises(IncompatibleModelError, match="does not go through"):
        find_layers(original)
    assert torch.equal(probe_logits(adapted), probe_logits(original))
    assert oracle(adapted, do_sample=False) == oracle(original, do_sample=False)


@pytest.mark.parametrize("architecture", ADAPTED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_adapted_model_runs_batched_in_16_bits(tiny_model, architecture, dtype):
    loaded = load_model(EngineConfig(str(tiny_model(architecture)), device="cpu", dtype=dtype))
    check_model(loaded, partial(TORCH_BACKEND.create_runner, loaded))
