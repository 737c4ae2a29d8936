"""Exercise 3: prefill in chunks."""

import torch
from transformers import DynamicCache, PreTrainedModel


def prefill(
    model: PreTrainedModel, token_ids: list[int], chunk_size: int, cache: DynamicCache
) -> torch.Tensor:
    """Fills an empty cache with a prompt; returns the logits after its last token, (vocab_size,).

    `model(ids, past_key_values=cache, use_cache=True)` computes some tokens, (1, num_tokens), and
    appends their keys and values to the cache.

    Args:
        model: gets at most `chunk_size` tokens a call.
        token_ids: the prompt; its length need not be a multiple of the chunk's.
        chunk_size: at least 1.
        cache: empty at first; in the end it holds the whole prompt.
    """
    raise NotImplementedError
