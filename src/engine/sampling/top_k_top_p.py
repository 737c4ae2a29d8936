"""Draws tokens, exactly, without sorting a vocabulary.

Every function works on many rows at once, (num_rows, vocab_size), and a row's token depends on that
row's numbers alone, to the last bit: the uniform numbers that it is drawn by come from the caller.
Three filters may drop tokens first, as `SamplingParams` describes them. What they leave is a prefix
of the tokens by falling probability, so one draws

1. among the most likely tokens, if the prefix ends there, as it nearly always does; else
2. by rejection: a token from all is taken if the filters would have kept it; else
3. after a sort.
"""

import torch

from src.engine.kernels.bindings import CpuKernels

NUM_CANDIDATES = 256
"""So many of the most likely tokens are looked at first."""

NUM_NATIVE_CANDIDATES = 512
"""Likewise, by our own kernels, which find them in a fraction of the time."""

NUM_ATTEMPTS = 4
"""So often a token is drawn from all, before they are sorted."""

NUM_UNIFORMS = 1 + NUM_ATTEMPTS + 1
"""The most that one draw needs: one for each of the three ways, and for each attempt."""

NUM_STRIPES = 16
"""Work on the whole vocabulary cuts it into so many."""

LARGEST_UNIFORM = 1 - 2**-53
"""The largest number below 1."""


def sample_filtered(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    filters: torch.Tensor,
    uniforms: torch.Tensor,
    library: CpuKernels | None = None,
) -> torch.Tensor:
    """Draws from what top-k, top-p and min-p leave.

    Args:
        logits: (num_rows, vocab_size), float32, each row's largest finite.
        temperatures: (num_rows,), float32.
        filters: (num_rows, 3), double: top_k in [1, vocab_size], top_p and min_p.
        uniforms: (num_rows, NUM_UNIFORMS), double, in [0, 1).
        library: our own kernels, if they are to find the most likely tokens.

    Returns:
        Token ids, (num_rows,).
    """
    vocab_size = logits.shape[-1]
    if library is None:
        probs = find_probs(logits, temperatures)
        top = find_most_likely(probs, min(NUM_CANDIDATES, vocab_size))
    else:
        top = library.most_likely(logits, temperatures, min(NUM_NATIVE_CANDIDATES, vocab_size))
    token_ids, is_exact = _draw_from_top(*top, filters, uniforms[:, :1], vocab_size)
    if not bool(is_exact.all()):
        rest = (~is_exact).nonzero().squeeze(1)
        own = probs[rest] if library is None else find_probs(logits[rest], temperatures[rest])
        token_ids[rest] = _draw_from_many(own, filters[rest], uniforms[rest, 1:])
    return token_ids


def find_largest(logits: torch.Tensor, library: CpuKernels | None = None) -> torch.Tensor:
    """Each row's largest logit, NaN where one is: (num_rows,)."""
    return logits.amax(dim=-1) if library is None else library.largest(logits)[0]


def find_best(logits: torch.Tensor, library: CpuKernels | None = None) -> torch.Tensor:
    """The first of each row's most likely tokens: ids, (num_rows,)."""
    return logits.argmax(dim=-1) if library is None else library.largest(logits)[1]


def find_probs(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """Probabilities at each row's temperature; softmax sums each row alone, in one fixed order."""
    return (logits / temperatures[:, None]).softmax(dim=-1)


def draw_from_all(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draws from the whole vocabulary: first a stripe of it, then a token in that.

    Args:
        probs: (num_rows, vocab_size), float32.
        uniform: (num_rows, 1), double, in [0, 1).

    Returns:
        Token ids, (num_rows,).
    """
    vocab_size = probs.shape[-1]
    width = _stripes(probs).shape[-1]
    sums = _sum_stripes(probs)  # (num_rows, stripes)
    cumulated = sums.cumsum(dim=-1)
    target = uniform * cumulated[:, -1:]
    stripe = _invert(cumulated, target)
    own = sums.gather(1, stripe)
    share = (target - cumulated.gather(1, stripe) + own) / own
    token_ids = stripe * width + torch.arange(width, device=probs.device)  # (num_rows, width)
    inside = probs.gather(1, token_ids.clamp(max=vocab_size - 1))
    inside = torch.where(token_ids < vocab_size, inside, 0).double().cumsum(dim=-1)
    target = share.clamp(0, LARGEST_UNIFORM) * inside[:, -1:]
    return token_ids.gather(1, _invert(inside, target)).squeeze(1)


def _draw_from_top(
    top: torch.Tensor,
    token_ids: torch.Tensor,
    filters: torch.Tensor,
    uniform: torch.Tensor,
    vocab_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws among the most likely tokens, and says in which rows that is the whole truth.

    Each filter keeps a prefix of the tokens by falling probability, so the shortest prefix is what
    all of them keep. As in HuggingFace's processors top-p takes its share of what top-k leaves.

    Args:
        top: (num_rows, num_candidates), the largest probabilities, the largest first.
        token_ids: (num_rows, num_candidates), whose they are.
        filters: (num_rows, 3): top_k, top_p and min_p.
        uniform: (num_rows, 1).
        vocab_size: of so many tokens.
    """
    num_candidates = top.shape[-1]
    top_k, top_p, min_p = torch.split(filters, 1, dim=1)  # each (num_rows, 1)
    cumulated = top.double().cumsum(dim=-1)  # (num_rows, num_candidates)
    last = (top_k.clamp(max=num_candidates) - 1).long()
    mass = torch.where(top_k <= num_candidates, cumulated.gather(1, last), 1.0)
    # The nucleus ends with the first token that reaches the wanted mass.
    wanted = torch.where(top_p < 1, top_p * mass, torch.inf)
    num_nucleus = (cumulated < wanted).sum(dim=-1, keepdim=True) + 1
    num_likely = (top >= min_p * top[:, :1]).sum(dim=-1, keepdim=True)
    last = torch.minimum(last, torch.minimum(num_nucleus, num_likely) - 1)
    place = _invert(cumulated, uniform * cumulated.gather(1, last))
    is_end_seen = (cumulated[:, -1:] >= wanted) | (num_likely < num_candidates)
    is_mass_known = (top_k >= vocab_size) | (top_p >= 1)
    is_exact = (top_k <= num_candidates) | (is_mass_known & is_end_seen)
    if num_candidates == vocab_size:
        is_exact = torch.ones_like(is_exact)
    return token_ids.gather(1, place).squeeze(1), is_exact.squeeze(1)


def _draw_from_many(
    probs: torch.Tensor, filters: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    """Draws where more tokens are kept than one wants to sort.

    To know whether the filters keep a token, it is enough to add up the more likely ones.

    Args:
        probs: (num_rows, vocab_size).
        filters: (num_rows, 3): top_k, top_p and min_p.
        uniforms: (num_rows, attempts left, and one for the sort).
    """
    vocab_size = probs.shape[-1]
    if uniforms.shape[1] == 1:
        top = find_most_likely(probs, vocab_size)
        return _draw_from_top(*top, filters, uniforms, vocab_size)[0]
    token_ids = draw_from_all(probs, uniforms[:, :1])
    is_kept = _keeps(probs, filters, token_ids[:, None])
    if not bool(is_kept.all()):
        rest = (~is_kept).nonzero().squeeze(1)
        token_ids[rest] = _draw_from_many(probs[rest], filters[rest], uniforms[rest, 1:])
    return token_ids


def _keeps(probs: torch.Tensor, filters: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Whether the filters keep a row's token; of equally likely tokens the first come first.

    Args:
        probs: (num_rows, vocab_size).
        filters: (num_rows, 3): top_k, top_p and min_p.
        token_ids: (num_rows, 1).

    Returns:
        (num_rows,); False too with a top-k, whose mass only a sort could tell.
    """
    vocab_size = probs.shape[-1]
    top_k, top_p, min_p = torch.split(filters, 1, dim=1)
    own = probs.gather(1, token_ids)
    is_earlier = torch.arange(vocab_size, device=probs.device) < token_ids
    is_before = (probs > own) | ((probs == own) & is_earlier)
    mass_before = _sum_stripes(probs * is_before).sum(dim=-1, keepdim=True)
    is_in_nucleus = (mass_before < top_p) | (top_p >= 1)
    is_likely = own >= min_p * probs.amax(dim=-1, keepdim=True)
    return (is_in_nucleus & is_likely & (top_k >= vocab_size)).squeeze(1)


def _invert(cumulated: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Inverse transform sampling: the first place whose cumulated probability exceeds the target.

    A target below the last one never gives a place of probability 0.

    Args:
        cumulated: (num_rows, num_places), double.
        target: (num_rows, 1), double.
    """
    return torch.searchsorted(cumulated, target, right=True)


def find_most_likely(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `topk`, in half the time on a CPU where the vocabulary is large.

    The vocabulary is cut into stripes that are laid on top of each other. The `count` columns with
    the largest maximum hold the `count` largest scores. All of them are a sort, in which equal
    scores keep their order.

    Args:
        scores: (num_rows, vocab_size).
        count: how many to find.

    Returns:
        Scores and token ids, (num_rows, count) each, largest score first.
    """
    num_rows, vocab_size = scores.shape
    if count == vocab_size:
        top, token_ids = scores.sort(dim=-1, descending=True, stable=True)
        return top, token_ids
    stripes = _stripes(scores)
    num_stripes, width = stripes.shape[1:]
    if width <= 2 * count:
        top, token_ids = scores.topk(count, dim=-1)
        return top, token_ids
    columns = stripes.amax(dim=1).topk(count, dim=-1, sorted=False).indices  # (num_rows, count)
    end = num_stripes * width
    starts = torch.arange(0, end, width, device=scores.device)
    token_ids = (starts[:, None] + columns[:, None, :]).flatten(1)
    rest = torch.arange(end, vocab_size, device=scores.device).expand(num_rows, -1)
    token_ids = torch.cat([token_ids, rest], dim=1)
    top, places = scores.gather(1, token_ids).topk(count, dim=-1)
    return top, token_ids.gather(1, places)


def _stripes(scores: torch.Tensor) -> torch.Tensor:
    """Equal pieces of the vocabulary, without the rest: a view, (num_rows, num_stripes, width)."""
    num_rows, vocab_size = scores.shape
    num_stripes = min(NUM_STRIPES, vocab_size)
    width = vocab_size // num_stripes
    return scores[:, : num_stripes * width].view(num_rows, num_stripes, width)


def _sum_stripes(probs: torch.Tensor) -> torch.Tensor:
    """The mass of each stripe and of the rest, (num_rows, num_stripes + 1), double.

    A sum over the vocabulary is split among threads where there is but one row, so that its last
    bits depend on the batch; the sums of stripes are not.
    """
    stripes = _stripes(probs)
    rest = probs[:, stripes.shape[1] * stripes.shape[2] :]
    return torch.cat([stripes.sum(dim=-1), rest.sum(dim=-1, keepdim=True)], dim=1).double()
