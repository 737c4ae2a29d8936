"""Layers that are replaced, and that their replacements give the same."""

import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from src.engine.config import EngineConfig
from src.engine.cpu_layers.linear import PackedLinear, create_torch_linear
from src.engine.cpu_layers.replace import replace_layers
from src.engine.model.loader import load_model


def test_replaces_known_classes_in_float32_and_nothing_else():
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
    assert replace_layers(model, "none", create_torch_linear) == 2
    classes = {name: type(layer).__name__ for name, layer in model.named_children()}
    assert classes == {
        "linear": "PackedLinear",
        "conv": "PackedLinear",
        "gelu": "GELU",
        "special": "Special",
        "short": "Linear",
        "embedding": "Embedding",
    }
    torch.testing.assert_close(model["conv"](rows), expected)
    torch.testing.assert_close(model["gelu"](rows), NewGELUActivation()(rows))


def test_an_embedding_that_shares_the_output_layers_weight_stays(tiny_model):
    model = load_model(EngineConfig(str(tiny_model("gpt2")))).model
    embedding = model.transformer.wte.weight.clone()
    replace_layers(model, "none", create_torch_linear)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.equal(model.transformer.wte.weight, embedding)
