"""An answer to exercise 3."""

import torch
from transformers import DynamicCache, PreTrainedModel


@torch.inference_mode()
def prefill(
    model: PreTrainedModel, token_ids: list[int], chunk_size: int, cache: DynamicCache
) -> torch.Tensor:
    """Fills an empty cache with a prompt; returns the logits after its last token."""
    for start in range(0, len(token_ids), chunk_size):
        chunk = torch.tensor([token_ids[start : start + chunk_size]])
        logits = model(chunk, past_key_values=cache, use_cache=True).logits
    return logits[0, -1]
