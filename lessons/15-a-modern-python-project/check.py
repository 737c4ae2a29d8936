"""Check of exercise 15."""

import math
from typing import Any

import torch
from pydantic import ValidationError
from transformers import EpsilonLogitsWarper


def refuses(create: Any, **values: object) -> bool:
    """Returns True if values are refused with an error that a caller expects."""
    try:
        create(**values)
    except (ValidationError, ValueError):
        return True
    return False


def check(answer: dict[str, Any]) -> None:
    """Sends requests through all layers, and compares with HuggingFace's filter."""
    request, params = answer["GenerateRequest"], answer["SamplingParams"]
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0)) * 3
    plain = answer["distribution"](logits, params())
    expected = logits.softmax(dim=-1)
    assert torch.allclose(plain, expected), "Without the parameter the distribution has changed."
    for value in (0.01, 0.05, 0.99):
        chosen = answer["sampling_params"](request(prompt="Once", epsilon_cutoff=value))
        given = answer["distribution"](logits, chosen)
        expected = EpsilonLogitsWarper(value)(torch.empty(0), logits[None])[0].softmax(dim=-1)
        assert torch.allclose(given, expected, atol=1e-6), (
            f"epsilon_cutoff {value} keeps {int((given > 0).sum())} tokens with a sum of"
            f" {float(given.sum()):.3f}, and HuggingFace's filter {int((expected > 0).sum())}."
        )
    for value in (-0.1, 1, math.nan):
        assert refuses(params, epsilon_cutoff=value), f"SamplingParams accepts {value}."
        assert refuses(request, prompt="Once", epsilon_cutoff=value), (
            f"GenerateRequest accepts {value}."
        )
    assert refuses(request, prompt="Once", epsilon=0.1), "An unknown field is accepted."
