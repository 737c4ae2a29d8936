"""Log-probabilities of tokens by the raw logits, before any processing for sampling."""

import torch

from src.engine.logprobs import PositionLogprobs, TokenLogprob

ROWS_AT_ONCE = 32
"""Rows of a block; with 50,000 tokens a copy of its logits takes 6 MB, of a whole prompt 200 MB."""


def find_logprobs(
    logits: torch.Tensor, token_ids: list[int], num_top: list[int]
) -> list[PositionLogprobs]:
    """Returns the log-probabilities of each row's token and of the most likely tokens.

    Args:
        logits: (num_rows, vocab_size), float32, raw; they are not changed.
        token_ids: the token at each row's position.
        num_top: number of most likely tokens for each row.
    """
    logprobs: list[PositionLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        logprobs += _find_in_block(logits[block], token_ids[block], num_top[block])
    return logprobs


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
