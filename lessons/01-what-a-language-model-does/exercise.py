"""Exercise 1: the probability of each token of a text."""

import torch


def token_probabilities(logits: torch.Tensor, token_ids: list[int]) -> list[float]:
    """Returns the probability of each token but the first, given the tokens before it.

    The row of a position is about the token after it. Nothing precedes the first token, so it has
    no probability.

    Args:
        logits: (num_tokens, vocab_size), from one run of the model over the tokens.
        token_ids: the tokens, `num_tokens` of them.
    """
    raise NotImplementedError
