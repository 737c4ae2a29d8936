"""Check of exercise 2."""

from typing import Any

import torch
from transformers import RepetitionPenaltyLogitsProcessor


def check(answer: dict[str, Any]) -> None:
    """Compares with HuggingFace's processor."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for token_ids in ([3], [3, 3, 3], [0, 7, 49, 7]):
        for penalty in (1.0, 1.3, 0.5):
            before = logits.clone()
            given = answer["penalize_repetition"](logits, token_ids, penalty)
            assert torch.equal(logits, before), "The tensor that the function gets has changed."
            processor = RepetitionPenaltyLogitsProcessor(penalty)
            expected = processor(torch.tensor([token_ids]), before[None])[0]
            different = (given - expected).abs() > 1e-5
            assert not different.any(), (
                f"Tokens {token_ids}, penalty {penalty}: the logit of token"
                f" {int(different.nonzero()[0])} was"
                f" {float(before[different][0]):.2f} and must become"
                f" {float(expected[different][0]):.2f}, not {float(given[different][0]):.2f}."
            )
