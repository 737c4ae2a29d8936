"""Exact sampling with top-k, top-p and min-p, without sorting the vocabulary.

Every function takes many rows, (num_rows, vocab_size). A row's token depends on that row's numbers
alone, to the last bit, as the caller gives the uniform numbers.

The three filters, described in `SamplingParams`, keep a prefix of the tokens in the order of
falling probability. A token is sampled

1. from the most likely tokens, if the prefix ends among them, as it nearly always does;
2. else by rejection sampling: a token is drawn from all, and accepted if the filters keep it;
3. else from all tokens, sorted.
"""

import torch

from src.engine.sampling.kernels import SamplingKernels, softmax
from src.engine.sampling.stripes import split_stripes, striped_top_k, sum_stripes

NUM_ATTEMPTS = 4
"""Attempts at rejection sampling before all tokens are sorted."""

NUM_UNIFORMS = 1 + NUM_ATTEMPTS + 1
"""Uniform numbers of a token: for the most likely tokens, for each attempt, for the sorted ones."""

MAX_UNIFORM = 1 - 2**-53
"""The largest double below 1."""


def sample_filtered(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    filters: torch.Tensor,
    uniforms: torch.Tensor,
    kernels: SamplingKernels,
) -> torch.Tensor:
    """Samples from the tokens that top-k, top-p and min-p keep.

    Args:
        logits: (num_rows, vocab_size), float32, the largest of each row finite.
        temperatures: (num_rows,), float32.
        filters: (num_rows, 3), double: top_k in [1, vocab_size], top_p and min_p.
        uniforms: (num_rows, NUM_UNIFORMS), double, in [0, 1).
        kernels: they find the most likely tokens.

    Returns:
        Token ids, (num_rows,).
    """
    top_probs, top_ids = kernels.top_probs(logits, temperatures)
    token_ids, is_exact = _sample_top(
        top_probs, top_ids, filters, uniforms[:, :1], logits.shape[-1]
    )
    if not bool(is_exact.all()):
        rest = (~is_exact).nonzero().squeeze(1)
        probs = softmax(logits[rest], temperatures[rest])
        token_ids[rest] = sample_by_rejection(probs, filters[rest], uniforms[rest, 1:])
    return token_ids


def sample_unfiltered(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Samples from the whole vocabulary: first a stripe, then a token of it.

    Args:
        probs: (num_rows, vocab_size), float32.
        uniforms: (num_rows, 1), double, in [0, 1).

    Returns:
        Token ids, (num_rows,).
    """
    vocab_size = probs.shape[-1]
    width = split_stripes(probs).shape[-1]
    sums = sum_stripes(probs)  # (num_rows, num_stripes + 1)
    cumulated = sums.cumsum(dim=-1)
    target = uniforms * cumulated[:, -1:]
    stripe = _inverse_transform(cumulated, target)
    stripe_sum = sums.gather(1, stripe)
    share = (target - cumulated.gather(1, stripe) + stripe_sum) / stripe_sum
    token_ids = stripe * width + torch.arange(width, device=probs.device)  # (num_rows, width)
    inside = probs.gather(1, token_ids.clamp(max=vocab_size - 1))
    inside = torch.where(token_ids < vocab_size, inside, 0).double().cumsum(dim=-1)
    target = share.clamp(0, MAX_UNIFORM) * inside[:, -1:]
    return token_ids.gather(1, _inverse_transform(inside, target)).squeeze(1)


def _sample_top(
    top_probs: torch.Tensor,
    top_ids: torch.Tensor,
    filters: torch.Tensor,
    uniforms: torch.Tensor,
    vocab_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples from the most likely tokens.

    Each filter keeps a prefix of them, so the shortest prefix is what all filters keep. As in
    HuggingFace's processors, top-p refers to the mass that top-k keeps.

    Args:
        top_probs: (num_rows, num_candidates), the largest probabilities, the largest first.
        top_ids: (num_rows, num_candidates), their token ids.
        filters: (num_rows, 3): top_k, top_p and min_p.
        uniforms: (num_rows, 1).
        vocab_size: number of all tokens.

    Returns:
        Token ids, (num_rows,), and (num_rows,) bool: False if the prefix may be longer than the
        candidates, so that the token does not follow the distribution.
    """
    num_candidates = top_probs.shape[-1]
    top_k, top_p, _ = torch.split(filters, 1, dim=1)  # each (num_rows, 1)
    cumulated = top_probs.double().cumsum(dim=-1)  # (num_rows, num_candidates)
    last, ends_inside = _last_kept(top_probs, cumulated, filters)
    index = _inverse_transform(cumulated, uniforms * cumulated.gather(1, last))
    is_mass_known = (top_k >= vocab_size) | (top_p >= 1)
    is_exact = (top_k <= num_candidates) | (is_mass_known & ends_inside)
    if num_candidates == vocab_size:
        is_exact = torch.ones_like(is_exact)
    return top_ids.gather(1, index).squeeze(1), is_exact.squeeze(1)


def _last_kept(
    top_probs: torch.Tensor, cumulated: torch.Tensor, filters: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the index of the last token that all filters keep, and whether top-p or min-p end.

    Args:
        top_probs: (num_rows, num_candidates), the largest first.
        cumulated: their cumulated sums, double.
        filters: (num_rows, 3): top_k, top_p and min_p.

    Returns:
        (num_rows, 1) each; False if the prefix of top-p and min-p may be longer.
    """
    num_candidates = top_probs.shape[-1]
    top_k, top_p, min_p = torch.split(filters, 1, dim=1)  # each (num_rows, 1)
    last = (top_k.clamp(max=num_candidates) - 1).long()
    mass = torch.where(top_k <= num_candidates, cumulated.gather(1, last), 1.0)
    # The nucleus ends with the first token that reaches this mass.
    nucleus_mass = torch.where(top_p < 1, top_p * mass, torch.inf)
    num_nucleus = (cumulated < nucleus_mass).sum(dim=-1, keepdim=True) + 1
    num_likely = (top_probs >= min_p * top_probs[:, :1]).sum(dim=-1, keepdim=True)
    last = torch.minimum(last, torch.minimum(num_nucleus, num_likely) - 1)
    ends_inside = (cumulated[:, -1:] >= nucleus_mass) | (num_likely < num_candidates)
    return last, ends_inside


def sample_by_rejection(
    probs: torch.Tensor, filters: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    """Samples from all tokens until the filters keep one; sorts them after the last attempt.

    Args:
        probs: (num_rows, vocab_size).
        filters: (num_rows, 3): top_k, top_p and min_p.
        uniforms: (num_rows, num_attempts + 1), one for each attempt, one for the sorted tokens.
    """
    if uniforms.shape[1] == 1:
        return sample_sorted(probs, filters, uniforms)
    token_ids = sample_unfiltered(probs, uniforms[:, :1])
    is_kept = _is_kept(probs, filters, token_ids[:, None])
    if not bool(is_kept.all()):
        rest = (~is_kept).nonzero().squeeze(1)
        token_ids[rest] = sample_by_rejection(probs[rest], filters[rest], uniforms[rest, 1:])
    return token_ids


def sample_sorted(
    probs: torch.Tensor, filters: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    """Samples from all tokens after a sort, by the last of the uniform numbers."""
    vocab_size = probs.shape[-1]
    top_probs, top_ids = striped_top_k(probs, vocab_size)
    return _sample_top(top_probs, top_ids, filters, uniforms[:, -1:], vocab_size)[0]


def keep_filtered(probs: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Returns the tokens that the filters keep, as a mask: (vocab_size,), bool.

    Args:
        probs: (vocab_size,), of one sequence.
        top_k: in [1, vocab_size].
        top_p: in (0, 1].
        min_p: in [0, 1].
    """
    filters = torch.tensor([[top_k, top_p, min_p]], dtype=torch.double, device=probs.device)
    top_probs, top_ids = striped_top_k(probs[None], len(probs))
    last, _ = _last_kept(top_probs, top_probs.double().cumsum(dim=-1), filters)
    kept = torch.zeros_like(probs, dtype=torch.bool)
    kept[top_ids[0, : int(last) + 1]] = True
    return kept


def _is_kept(probs: torch.Tensor, filters: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Checks for each row that the filters keep a token; it suffices to sum the more likely ones.

    Of equally likely tokens the first come first.

    Args:
        probs: (num_rows, vocab_size).
        filters: (num_rows, 3): top_k, top_p and min_p.
        token_ids: (num_rows, 1).

    Returns:
        (num_rows,) bool. False for all tokens if there is a top-k, as its mass needs a sort.
    """
    vocab_size = probs.shape[-1]
    top_k, top_p, min_p = torch.split(filters, 1, dim=1)
    token_probs = probs.gather(1, token_ids)
    is_earlier = torch.arange(vocab_size, device=probs.device) < token_ids
    is_before = (probs > token_probs) | ((probs == token_probs) & is_earlier)
    mass_before = sum_stripes(probs * is_before).sum(dim=-1, keepdim=True)
    is_in_nucleus = (mass_before < top_p) | (top_p >= 1)
    is_likely = token_probs >= min_p * probs.amax(dim=-1, keepdim=True)
    return (is_in_nucleus & is_likely & (top_k >= vocab_size)).squeeze(1)


def _inverse_transform(cumulated: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Inverse transform sampling: the first index with a cumulated probability above the target.

    A target below the last cumulated value never selects an index of probability 0.

    Args:
        cumulated: (num_rows, size), double.
        target: (num_rows, 1), double.
    """
    return torch.searchsorted(cumulated, target, right=True)
