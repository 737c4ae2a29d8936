"""Reductions over a large vocabulary, computed in stripes: equal pieces, and a remainder.

A function takes many rows, (num_rows, vocab_size), and a row's result depends on that row alone, to
the last bit.
"""

import torch

NUM_STRIPES = 16


def split_stripes(scores: torch.Tensor) -> torch.Tensor:
    """Returns a view without the remainder, (num_rows, num_stripes, width)."""
    num_rows, vocab_size = scores.shape
    num_stripes = min(NUM_STRIPES, vocab_size)
    width = vocab_size // num_stripes
    return scores[:, : num_stripes * width].view(num_rows, num_stripes, width)


def sum_stripes(probs: torch.Tensor) -> torch.Tensor:
    """Returns the sum of each stripe and of the remainder, (num_rows, num_stripes + 1), double.

    PyTorch splits the sum of a single long row among threads, which changes its last bits; it does
    not split sums of stripes.
    """
    stripes = split_stripes(probs)
    remainder = probs[:, stripes.shape[1] * stripes.shape[2] :]
    return torch.cat([stripes.sum(dim=-1), remainder.sum(dim=-1, keepdim=True)], dim=1).double()


def striped_top_k(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the same as `topk`, in half the time on a CPU if the vocabulary is large.

    The stripes are stacked. The `count` columns with the largest maxima contain the `count` largest
    scores. If `count` is the vocabulary's size, a stable sort keeps the order of equal scores.

    Args:
        scores: (num_rows, vocab_size).
        count: at most vocab_size.

    Returns:
        Scores and token ids, (num_rows, count) each, the largest score first.
    """
    num_rows, vocab_size = scores.shape
    if count == vocab_size:
        top, token_ids = scores.sort(dim=-1, descending=True, stable=True)
        return top, token_ids
    stripes = split_stripes(scores)
    num_stripes, width = stripes.shape[1:]
    if width <= 2 * count:
        top, token_ids = scores.topk(count, dim=-1)
        return top, token_ids
    columns = stripes.amax(dim=1).topk(count, dim=-1, sorted=False).indices  # (num_rows, count)
    end = num_stripes * width
    starts = torch.arange(0, end, width, device=scores.device)
    token_ids = (starts[:, None] + columns[:, None, :]).flatten(1)
    remainder = torch.arange(end, vocab_size, device=scores.device).expand(num_rows, -1)
    token_ids = torch.cat([token_ids, remainder], dim=1)
    top, indices = scores.gather(1, token_ids).topk(count, dim=-1)
    return top, token_ids.gather(1, indices)
