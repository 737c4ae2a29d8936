"""An answer to exercise 2."""

import torch


def penalize_repetition(logits: torch.Tensor, token_ids: list[int], penalty: float) -> torch.Tensor:
    """Returns logits in which tokens that have occurred are less likely."""
    seen = torch.tensor(sorted(set(token_ids)))
    changed = logits.clone()
    changed[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    return changed
