"""Layers that take others' places give what those gave."""

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from src.engine.compatibility import probe_token_ids
from src.engine.config import EngineConfig
from src.engine.layers import PackedLinear, replace_layers
from src.engine.model_loader import load_model
from tests.tiny_models import BATCHED


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("num_in", "num_out"), [(32, 64), (37, 53), (1, 3), (96, 1), (768, 5000)])
def test_a_packed_linear_gives_what_the_plain_one_gives(num_in, num_out, has_bias):
    plain = nn.Linear(num_in, num_out, bias=has_bias)
    packed = PackedLinear(plain.weight.detach(), plain.bias.detach() if has_bias else None)
    for num_rows in (0, 1, 2, 7, 16, 65, 300):
        rows = torch.randn(1, num_rows, num_in)
        torch.testing.assert_close(packed(rows), plain(rows).detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(packed.weight, plain.weight)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    packed = PackedLinear(torch.randn(96, 64), torch.randn(96))
    rows = torch.randn(128, 64)
    whole = packed(rows)
    for num_rows in (2, 5, 16, 33, 64):
        assert torch.equal(packed(rows[:num_rows]), whole[:num_rows])


def test_replaces_what_it_knows_and_nothing_else():
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 6),
            "conv": Conv1D(6, 4),
            "gelu": NewGELUActivation(),
            "special": Special(4, 6),
            "short": nn.Linear(4, 6, dtype=torch.float16),
            "embedding": nn.Embedding(3, 4),
        }
    )
    conv, rows = model["conv"], torch.randn(5, 4)
    expected = conv(rows).detach()
    replace_layers(model)
    kinds = {name: type(layer).__name__ for name, layer in model.named_children()}
    assert kinds == {
        "linear": "PackedLinear",
        "conv": "PackedLinear",
        "gelu": "GELU",
        "special": "Special",
        "short": "Linear",
        "embedding": "Embedding",
    }
    torch.testing.assert_close(model["conv"](rows), expected)
    torch.testing.assert_close(model["gelu"](rows), NewGELUActivation()(rows))


def test_an_embedding_whose_weight_is_the_output_layers_stays(tiny_model):
    model = load_model(EngineConfig(str(tiny_model("gpt2")))).model
    embedding = model.transformer.wte.weight.clone()
    replace_layers(model)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.equal(model.transformer.wte.weight, embedding)


@pytest.mark.parametrize("architecture", BATCHED)
@torch.inference_mode()
def test_a_model_gives_the_same_logits(tiny_model, architecture):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    plain = loaded.model(probe_token_ids(loaded), use_cache=False).logits
    replace_layers(loaded.model)
    assert any(isinstance(layer, PackedLinear) for layer in loaded.model.modules())
    faster = loaded.model(probe_token_ids(loaded), use_cache=False).logits
    torch.testing.assert_close(faster, plain, atol=1e-4, rtol=1e-4)
