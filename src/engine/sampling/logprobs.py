"""Log-probabilities or logits of tokens, before or after the processing for sampling."""

from collections.abc import Sequence

import torch

from src.engine.logprobs import MIN_LOGPROB, LogprobsMode, PositionLogprobs, TokenLogprob
from src.engine.sampling.top_k_top_p import keep_filtered
from src.engine.sampling_params import SamplingParams

ROWS_AT_ONCE = 32
"""Rows of a block; with 50,000 tokens a copy of its logits takes 6 MB, of a whole prompt 200 MB."""


class LogprobsReport:
    """Log-probabilities of a step's sampled tokens, for the rows that want some.

    Args:
        logits: (num_rows, vocab_size), float32, raw; they may be changed afterwards.
        params: of each row.
    """

    def __init__(self, logits: torch.Tensor, params: Sequence[SamplingParams]) -> None:
        self._params = {index: one for index, one in enumerate(params) if one.logprobs is not None}
        self._logits = logits[list(self._params)] if self._params else logits  # a copy

    def find(self, logits: torch.Tensor, token_ids: list[int]) -> dict[int, PositionLogprobs]:
        """Returns the log-probabilities by the rows' indices.

        Args:
            logits: (num_rows, vocab_size), after bias, penalties, bans and grammars.
            token_ids: the sampled tokens, one for each row.
        """
        indices, order = list(self._params), self._logits
        if any(map(reports_processed, self._params.values())):
            order = order.clone()
        places: dict[LogprobsMode, list[int]] = {}
        for place, (index, params) in enumerate(self._params.items()):
            places.setdefault(params.logprobs_mode, []).append(place)
            if reports_processed(params):
                order[place] = logits[index]
                self._logits[place] = process_logits(logits[index], params, token_ids[index])
        positions: dict[int, PositionLogprobs] = {}
        for mode, those in places.items():
            chosen = [indices[place] for place in those]
            num_top = [self._params[index].logprobs or 0 for index in chosen]
            is_all = len(those) == len(indices)
            rows = slice(None) if is_all else torch.tensor(those, device=logits.device)
            found = find_logprobs(
                self._logits[rows], [token_ids[i] for i in chosen], num_top, mode, order[rows]
            )
            positions.update(zip(chosen, found, strict=True))
        return positions


def find_logprobs(
    logits: torch.Tensor,
    token_ids: list[int],
    num_top: list[int],
    mode: LogprobsMode = "raw_logprobs",
    order: torch.Tensor | None = None,
) -> list[PositionLogprobs]:
    """Returns the values of each row's token and of the most likely tokens.

    Args:
        logits: (num_rows, vocab_size), float32, raw or processed; they are not changed.
        token_ids: the token at each row's position.
        num_top: number of most likely tokens for each row.
        mode: log-probabilities or logits; the caller has processed them.
        order: logits, (num_rows, vocab_size), by which the most likely tokens are found: those
            before the filters put the impossible ones in order too. None takes `logits`.
    """
    order = logits if order is None else order
    logprobs: list[PositionLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        values = logits[block] if mode.endswith("logits") else logits[block].log_softmax(dim=-1)
        logprobs += _find_in_block(values, order[block], token_ids[block], num_top[block])
    return logprobs


def reports_processed(params: SamplingParams) -> bool:
    """Checks that a request wants values after the sampling parameters."""
    return params.logprobs is not None and params.logprobs_mode.startswith("processed")


def process_logits(logits: torch.Tensor, params: SamplingParams, token_id: int) -> torch.Tensor:
    """Returns a sequence's logits after temperature and filters: those that are sampled from.

    Args:
        logits: (vocab_size,), float32, after bias, penalties, bans and grammar; they are not
            changed.
        params: the request's. Greedy ones have neither temperature nor filters.
        token_id: the sampled token.
    """
    if params.is_greedy or not bool(logits.max().isfinite()):
        return logits
    scaled = logits / params.temperature
    vocab_size = len(logits)
    filters = (min(params.top_k or vocab_size, vocab_size), params.top_p, params.min_p)
    kept = keep_filtered(scaled.softmax(dim=-1), *filters)
    kept[token_id] = True  # a kernel may round the last probability of the nucleus differently
    return scaled.masked_fill(~kept, -torch.inf)


def _find_in_block(
    values: torch.Tensor, order: torch.Tensor, token_ids: list[int], num_top: list[int]
) -> list[PositionLogprobs]:
    # Without a possible token the log-probabilities are NaN.
    values = values.nan_to_num(nan=MIN_LOGPROB).clamp(min=MIN_LOGPROB)
    chosen = values[list(range(len(token_ids))), token_ids].tolist()
    top_ids = order.topk(min(max(num_top), values.shape[-1]), dim=-1).indices
    top = values.gather(1, top_ids)
    return [
        PositionLogprobs(
            TokenLogprob(token_id, logprob),
            [TokenLogprob(*pair) for pair in zip(ids[:count], row[:count], strict=True)],
        )
        for token_id, logprob, count, ids, row in zip(
            token_ids, chosen, num_top, top_ids.tolist(), top.tolist(), strict=True
        )
    ]
