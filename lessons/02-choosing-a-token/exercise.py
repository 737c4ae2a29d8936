"""Exercise 2: a repetition penalty."""

import torch


def penalize_repetition(logits: torch.Tensor, token_ids: list[int], penalty: float) -> torch.Tensor:
    """Returns logits in which tokens that have occurred are less likely.

    A positive logit of such a token is divided by the penalty, a negative one is multiplied by it.
    Once for each token, however frequent it was. Do not change the tensor that you get.

    Args:
        logits: (vocab_size,), of the next token.
        token_ids: all tokens so far.
        penalty: above 0; with 1 nothing changes.
    """
    raise NotImplementedError
