"""Log-probabilities of tokens, from the model's own logits."""

import torch

from src.engine.logprobs import PositionLogprobs, TokenLogprob

ROWS_AT_ONCE = 32
"""Each such block needs one more copy of its logits: 6 MB of 50,000 tokens, not 200 MB a prompt."""


def find_logprobs(
    logits: torch.Tensor, token_ids: list[int], num_top: list[int]
) -> list[PositionLogprobs]:
    """Tells each row's token and its best alternatives.

    Args:
        logits: (num_rows, vocab_size), float32, as the model gave them; they stay as they are.
        token_ids: the token that stands at each row's position.
        num_top: how many of the most likely tokens each row tells.
    """
    found: list[PositionLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        found += _find_in_block(logits[block], token_ids[block], num_top[block])
    return found


def _find_in_block(
    logits: torch.Tensor, token_ids: list[int], num_top: list[int]
) -> list[PositionLogprobs]:
    logprobs = logits.log_softmax(dim=-1)
    chosen = logprobs[list(range(len(token_ids))), token_ids].tolist()
    top, top_ids = logprobs.topk(min(max(num_top), logits.shape[-1]), dim=-1)
    return [
        PositionLogprobs(
            TokenLogprob(token_id, logprob),
            [TokenLogprob(*pair) for pair in zip(ids[:count], values[:count], strict=True)],
        )
        for token_id, logprob, count, ids, values in zip(
            token_ids, chosen, num_top, top_ids.tolist(), top.tolist(), strict=True
        )
    ]
