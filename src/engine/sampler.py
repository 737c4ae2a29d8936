"""Chooses each sequence's next token from its logits, all sequences of a step at once.

Randomness is one uniform number a token, a function of the request's seed and the token's position
alone. So a seeded request gives the same text whatever else is in the batch, and a step can be run
again.
"""

import hashlib
from dataclasses import dataclass

import torch

from src.engine.sampling_params import SamplingParams

NUM_CANDIDATES = 256
"""Top-p looks at so many most likely tokens before it sorts the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """How to choose one row's token.

    Args:
        params: the request's.
        seed: the request's, or one drawn for it.
        position: of the new token in its sequence.
    """

    params: SamplingParams
    seed: int
    position: int


def sample(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    """Returns a token id for each row.

    Args:
        logits: (num_rows, vocab_size), float32.
        rows: how to choose in each.
    """
    token_ids = logits.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if not row.params.is_greedy]
    if drawn:
        chosen = [rows[index] for index in drawn]
        index = torch.tensor(drawn, device=logits.device)
        token_ids[index] = _draw(logits[index] if len(drawn) < len(rows) else logits, chosen)
    return token_ids.tolist()


def _draw(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Draws by inverse transform: the token where the uniform number falls in the distribution."""
    device = logits.device
    temperature = torch.tensor([row.params.temperature for row in rows], device=device)
    top_p = torch.tensor([row.params.top_p for row in rows], device=device)
    vocab_size = logits.shape[-1]
    top_k = torch.tensor([row.params.top_k or vocab_size for row in rows], device=device)
    uniform = torch.tensor([_uniform(row.seed, row.position) for row in rows], device=device)
    probs = torch.softmax(logits / temperature[:, None], dim=-1)  # (rows, vocab_size)
    num_candidates = min(NUM_CANDIDATES, vocab_size)
    token_ids, is_exact = _draw_from_top(probs, num_candidates, top_p, top_k, uniform)
    if not bool(is_exact.all()):
        rest = (~is_exact).nonzero().squeeze(1)
        token_ids[rest], _ = _draw_from_top(
            probs[rest], vocab_size, top_p[rest], top_k[rest], uniform[rest]
        )
    return token_ids


def _draw_from_top(
    probs: torch.Tensor,
    num_candidates: int,
    top_p: torch.Tensor,
    top_k: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws among the most likely tokens, and says in which rows that is the whole truth.

    Top-k comes first and top-p takes its share of what that leaves, as in HuggingFace's processors.
    """
    vocab_size = probs.shape[-1]
    top, token_ids = probs.topk(num_candidates, dim=-1)  # sorted, most likely first
    cumulated = top.double().cumsum(dim=-1)  # (rows, num_candidates)
    num_kept = top_k.clamp(max=num_candidates)
    mass = torch.where(
        top_k <= num_candidates, cumulated.gather(1, num_kept[:, None] - 1).squeeze(1), 1.0
    )
    wanted = top_p.double() * mass
    # The nucleus ends with the first token that reaches the wanted mass.
    num_kept = torch.minimum(num_kept, (cumulated < wanted[:, None]).sum(dim=-1) + 1)
    num_kept = num_kept.clamp(max=num_candidates)
    total = cumulated.gather(1, num_kept[:, None] - 1).squeeze(1)
    is_exact = (top_k <= num_candidates) | (cumulated[:, -1] >= wanted)
    if num_candidates == vocab_size:
        is_exact = torch.ones_like(is_exact)
    place = (cumulated <= (uniform * total)[:, None]).sum(dim=-1)
    place = torch.minimum(place, num_kept - 1)
    return token_ids.gather(1, place[:, None]).squeeze(1), is_exact


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but the two."""
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
