"""Rotary embeddings do not depend on the other sequences of a step."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from src.engine.model.rope import fix_rotary_frequencies

CONTEXT, ORIGINAL = 256, 64
SHAPE = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": None,
    "original_max_position_embeddings": ORIGINAL,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 3 * index for index in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}
MAGNITUDES = {"short_mscale": 1.2, "long_mscale": 1.5}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def create_model(architecture: str, rope: dict, **shape: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SHAPE | {"rope_parameters": rope} | shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


@torch.inference_mode()
def logits(model: PreTrainedModel, num_tokens: int, largest_position: int) -> torch.Tensor:
    """Returns the logits of a text beside a token at a largest position."""
    token_ids = torch.arange(num_tokens + 1)[None] % 200
    positions = torch.cat([torch.arange(num_tokens), torch.tensor([largest_position])])[None]
    mask = torch.ones(num_tokens + 1, num_tokens + 1).tril().bool()[None, None]
    return model(token_ids, position_ids=positions, attention_mask=mask).logits[0, :num_tokens]


@pytest.mark.parametrize(
    ("architecture", "rope", "context"),
    [
        ("phi3", LONG, CONTEXT),
        ("llama", DYNAMIC | {"factor": 2.0}, CONTEXT),
        ("phi3", LONG, ORIGINAL),
        ("phimoe", LONG | MAGNITUDES, CONTEXT),
        ("phimoe", LONG | MAGNITUDES, ORIGINAL),
    ],
)
def test_a_long_neighbour_changes_nothing(architecture, rope, context):
    model = create_model(architecture, rope)
    fix_rotary_frequencies(model, context)
    alone, beside = logits(model, 20, 20), logits(model, 20, 2 * CONTEXT)
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-5)


def test_without_fixed_frequencies_a_long_neighbour_changes_the_answer():
    model = create_model("phi3", LONG)
    alone, beside = logits(model, 20, 20), logits(model, 20, 2 * CONTEXT)
    assert (alone - beside).abs().max() > 0.1


@pytest.mark.parametrize(("context", "num_tokens"), [(CONTEXT, ORIGINAL + 8), (ORIGINAL, 20)])
@pytest.mark.parametrize(
    ("architecture", "rope"),
    [("phi3", LONG), ("phimoe", LONG | MAGNITUDES)],
    ids=["phi3", "phimoe"],
)
def test_texts_of_the_served_length_get_the_frequencies_of_huggingface(
    architecture, rope, context, num_tokens
):
    expected = logits(create_model(architecture, rope), num_tokens, num_tokens)
    model = create_model(architecture, rope)
    fix_rotary_frequencies(model, context)
    torch.testing.assert_close(logits(model, num_tokens, num_tokens), expected)


def test_other_kinds_stay_as_they_are():
    model = create_model("llama", {"rope_type": "default", "rope_theta": 10000.0})
    expected = logits(model, 20, 20)
    fix_rotary_frequencies(model, CONTEXT)
    torch.testing.assert_close(logits(model, 20, 20), expected, rtol=0, atol=0)
