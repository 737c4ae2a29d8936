"""Guides a few attention heads during training, so that copying is learned early.

Contract: `Guide.compute_loss` is small when two heads attend to the previous tokens, and others to
the place where the next token occurred before. Copying needs both (an "induction head", Olsson et
al. 2022). Without guidance the model had neither after 12 million tokens.
"""

from collections.abc import Sequence

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import Batch

CONTEXT = 4  # tokens on each side that tell one source from another


class Guide:
    """Targets of attention for chosen heads.

    Args:
        tokenizer: gives the tokens that differ in their leading space alone.
        previous_heads: (layer, head, distance in tokens) of each head that attends to an earlier
            token.
        source_heads: (layer, head) of each head that attends to the source of a copy.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        previous_heads: Sequence[tuple[int, int, int]],
        source_heads: Sequence[tuple[int, int]],
    ) -> None:
        self.bare_tokens = create_bare_tokens(tokenizer)
        self.end_of_text = tokenizer.eos_token_id
        self.previous_heads = previous_heads
        self.source_heads = source_heads

    def compute_loss(
        self, model: GPT2LMHeadModel, hidden_states: Sequence[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """Returns the mean negative log of the attention at the targets.

        `hidden_states`: (rows, length, width) before each layer.
        """
        losses = []
        for layer, head, distance in self.previous_heads:
            attention = log_attention(model, hidden_states[layer], layer, head)
            losses.append(-attention.diagonal(-distance, 1, 2).mean())
        sources = find_sources(self.bare_tokens[batch.tokens], self.end_of_text)
        sources &= batch.counts[:, :, None]
        has_source = sources.any(-1)
        if has_source.any():
            for layer, head in self.source_heads:
                attention = log_attention(model, hidden_states[layer], layer, head)
                found = attention[has_source].masked_fill(~sources[has_source], -torch.inf)
                losses.append(-found.logsumexp(-1).mean())
        return torch.stack(losses).mean()


def create_bare_tokens(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Maps each token to the one without its leading space, if it exists: " S" counts as "S"."""
    vocabulary = tokenizer.get_vocab()
    bare = torch.arange(len(tokenizer))
    for token, index in vocabulary.items():
        bare[index] = vocabulary.get(token.removeprefix("Ġ"), index)
    return bare


def find_sources(tokens: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """Finds earlier places of the next token in the same document.

    Of several places those count that agree best with the tokens before and after, up to `CONTEXT`
    tokens on each side. A place without any agreement does not count.

    Returns (rows, length, length): for each position, the positions to attend to.
    """
    now, following = tokens[:, :-1], tokens[:, 1:]
    length = now.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    document = (tokens == end_of_text).cumsum(1)
    is_same = (document[:, 1:, None] == document[:, None, :-1]) & earlier
    equal = (following[:, :, None] == now[:, None, :]) & is_same
    agreement = _count_run(equal, 1) + _count_run(equal, -1)
    agreement = agreement.masked_fill(~equal, 0)
    best = agreement.amax(-1, keepdim=True)
    return (agreement == best) & (best > 2)


def _count_run(equal: torch.Tensor, step: int) -> torch.Tensor:
    """Counts equal places in a row, from each place on along its diagonal."""
    run = equal.to(torch.uint8)
    total = run.clone()
    for _ in range(CONTEXT):
        shifted = torch.zeros_like(run)
        if step > 0:
            shifted[:, :-1, :-1] = run[:, 1:, 1:]
        else:
            shifted[:, 1:, 1:] = run[:, :-1, :-1]
        run = shifted * equal
        total += run
    return total


def log_attention(
    model: GPT2LMHeadModel, hidden: torch.Tensor, layer: int, head: int
) -> torch.Tensor:
    """Returns the log of one head's attention, (rows, length, length)."""
    block = model.transformer.h[layer]
    width, size = block.attn.embed_dim, block.attn.head_dim
    normed = block.ln_1(hidden)
    query, key = (
        normed @ block.attn.c_attn.weight[:, start : start + size]
        + block.attn.c_attn.bias[start : start + size]
        for start in (head * size, width + head * size)
    )
    scores = query @ key.mT / size**0.5
    length = scores.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).log_softmax(-1)
