"""An answer to exercise 1."""

import torch


def token_probabilities(logits: torch.Tensor, token_ids: list[int]) -> list[float]:
    """Returns the probability of each token but the first, given the tokens before it."""
    probs = logits.softmax(dim=-1)
    return [
        float(probs[position - 1, token_ids[position]]) for position in range(1, len(token_ids))
    ]
