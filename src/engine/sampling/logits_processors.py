"""Logits processors: bias, penalties, bans and grammar masks, applied in place.

Only the logits of the tokens concerned are touched. A bias or a ban of a token outside the
vocabulary has no effect, as an index out of range would make a GPU unusable for the process.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from src.engine.sampling_params import SamplingParams


def changes_logits(params: SamplingParams) -> bool:
    """Checks that a request has a bias or a penalty."""
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1
        or params.frequency_penalty
        or params.presence_penalty
    )


def change_logits(
    logits: torch.Tensor, params: SamplingParams, token_ids: list[int], num_prompt_tokens: int
) -> None:
    """Applies bias and penalties in place, in HuggingFace's order.

    Args:
        logits: (vocab_size,), float32, of one sequence's next token.
        params: the request's.
        token_ids: all tokens so far, the prompt's first.
        num_prompt_tokens: number of the prompt's tokens among them.
    """
    if params.logit_bias:
        add_bias(logits, params.logit_bias)
    if params.repetition_penalty != 1:
        penalize_repetition(logits, params.repetition_penalty, token_ids)
    if params.frequency_penalty or params.presence_penalty:
        penalize_frequency_and_presence(
            logits,
            params.frequency_penalty,
            params.presence_penalty,
            token_ids[num_prompt_tokens:],
        )


def add_bias(logits: torch.Tensor, bias: Mapping[int, float]) -> None:
    """Adds to the logits of single tokens (OpenAI's logit_bias)."""
    known = {token_id: value for token_id, value in bias.items() if token_id < len(logits)}
    logits[list(known)] += logits.new_tensor(list(known.values()))


def penalize_repetition(logits: torch.Tensor, penalty: float, token_ids: list[int]) -> None:
    """Makes tokens that occur less likely, or more likely with a penalty below 1.

    Positive logits are divided by the penalty and negative ones multiplied, once for each distinct
    token (CTRL, Keskar et al. 2019, arXiv:1909.05858).
    """
    index = _index(token_ids, logits)
    seen = logits.gather(0, index)
    logits.scatter_(0, index, torch.where(seen < 0, seen * penalty, seen / penalty))


def penalize_frequency_and_presence(
    logits: torch.Tensor, frequency: float, presence: float, token_ids: list[int]
) -> None:
    """Subtracts count * frequency + presence from the logit of each token (OpenAI's penalties)."""
    distinct, counts = np.unique(np.array(token_ids, dtype=np.int64), return_counts=True)
    amounts = torch.from_numpy(counts * -frequency - presence).to(logits)
    logits.index_add_(0, torch.from_numpy(distinct).to(logits.device), amounts)


def ban(logits: torch.Tensor, token_ids: Iterable[int]) -> None:
    """Sets the logits of tokens to -infinity."""
    logits[[token_id for token_id in token_ids if token_id < len(logits)]] = -torch.inf


def keep_only(logits: torch.Tensor, token_id: int) -> None:
    """Makes a token the only possible one."""
    logits.fill_(-torch.inf)
    logits[token_id] = 0


def keep_allowed(logits: torch.Tensor, rows: list[int], bits: NDArray[np.uint8]) -> None:
    """Sets logits to -infinity in some rows, except for tokens with a bit set.

    Args:
        logits: (num_rows, vocab_size); tokens beyond the last bit are not allowed.
        rows: indices of the rows.
        bits: (len(rows), num_bytes), the lowest bit of a byte first.
    """
    vocab_size = logits.shape[-1]
    # On a CPU numpy unpacks bits many times faster than torch can by shifts.
    unpacked = np.unpackbits(bits, axis=1, count=vocab_size, bitorder="little")
    forbidden = torch.from_numpy(unpacked == 0).to(logits.device)
    if len(rows) == len(logits):
        logits.masked_fill_(forbidden, -torch.inf)
        return
    for row, mask in zip(rows, forbidden, strict=True):
        logits[row].masked_fill_(mask, -torch.inf)


def _index(token_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(token_ids, dtype=np.int64)).to(logits.device)
