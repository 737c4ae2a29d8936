"""Chooses each sequence's next token from its logits, all sequences of a step at once.

Randomness is a few uniform numbers a token, made from the request's seed and the token's position
alone. So a seeded request gives the same text whatever else is in the batch, and a step can be run
again.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

from src.engine.kernels.bindings import CpuKernels
from src.engine.logprobs import SampledToken
from src.engine.sampling.logits_processors import ban, change_logits, changes_logits, keep_allowed
from src.engine.sampling.logprobs import find_logprobs
from src.engine.sampling.top_k_top_p import (
    NUM_UNIFORMS,
    draw_from_all,
    find_best,
    find_largest,
    find_probs,
    sample_filtered,
)
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.matcher import Matcher, find_allowed


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """How to choose one row's token.

    Args:
        params: the request's.
        seed: the request's, or one drawn for it.
        token_ids: all tokens so far, the prompt's first; shared, and not to be changed.
        num_prompt_tokens: so many of them are the prompt's.
        banned_token_ids: never chosen: the end tokens, before min_tokens.
        matcher: where the sequence stands in its grammar, if it has one.
        draft: guessed tokens between these and the one that is to be chosen.
    """

    params: SamplingParams
    seed: int
    token_ids: list[int]
    num_prompt_tokens: int
    banned_token_ids: frozenset[int] = frozenset()
    matcher: Matcher | None = None
    draft: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """Of the token that is to be chosen."""
        return len(self.token_ids) + len(self.draft)


def sample(
    logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None = None
) -> list[SampledToken | None]:
    """Chooses a token for each row; None where the row's token mask was not ready in time.

    The log-probabilities are the model's own, from before bias, penalties, bans, grammar and
    temperature. A row whose tokens are all impossible gets one of them.

    Args:
        logits: (num_rows, vocab_size), float32; they are used up: changed in place.
        rows: how to choose in each.
        library: our own kernels, if they are to choose.

    Raises:
        DeadEndError: a row's grammar allows no token.
    """
    told = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
    raw = logits[told] if told else None  # a copy
    for index, row in enumerate(rows):
        if changes_logits(row.params):
            token_ids = [*row.token_ids, *row.draft] if row.draft else row.token_ids
            change_logits(logits[index], row.params, token_ids, row.num_prompt_tokens)
        if row.banned_token_ids and row.matcher is None:
            ban(logits[index], row.banned_token_ids)
    late = _apply_grammars(logits, rows)
    token_ids = _choose(logits, rows, library)
    sampled: list[SampledToken | None] = [SampledToken(token_id, None) for token_id in token_ids]
    if raw is not None:
        chosen = [token_ids[index] for index in told]
        num_top = [rows[index].params.logprobs or 0 for index in told]
        for index, logprobs in zip(told, find_logprobs(raw, chosen, num_top), strict=True):
            sampled[index] = SampledToken(token_ids[index], logprobs)
    for index in late:
        sampled[index] = None
    return sampled


def _apply_grammars(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    """Makes impossible what the rows' grammars do not allow; returns rows whose mask is late."""
    found = [(index, row, row.matcher) for index, row in enumerate(rows) if row.matcher is not None]
    if not found:
        return []
    ends_early = [bool(row.banned_token_ids) for _, row, _ in found]
    bits, is_ready = find_allowed([matcher for _, _, matcher in found], ends_early)
    late = [index for (index, _, _), is_there in zip(found, is_ready, strict=True) if not is_there]
    ready = [index for (index, _, _), is_there in zip(found, is_ready, strict=True) if is_there]
    if ready:
        keep_allowed(logits, ready, bits[is_ready] if late else bits)
    return late


_Choice = Callable[[torch.Tensor, list[SamplingRow], CpuKernels | None], torch.Tensor]
"""From logits and rows to token ids."""


def _choose(logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None) -> list[int]:
    """Returns a token id for each row; logits: (num_rows, vocab_size)."""
    token_ids = [0] * len(rows)
    for choose, group in _group(logits, rows, library):
        part = logits if len(group) == len(rows) else logits[group]
        chosen = choose(part, [rows[index] for index in group], library).tolist()
        for index, token_id in zip(group, chosen, strict=True):
            token_ids[index] = token_id
    return token_ids


def _group(
    logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None
) -> list[tuple[_Choice, list[int]]]:
    """The ways to choose, each with its rows; a batch usually has one."""
    if all(row.params.is_greedy for row in rows):
        return [(_take_best, list(range(len(rows))))]
    groups: dict[_Choice, list[int]] = {}
    # Without a largest logit that is a number there are no probabilities to draw by.
    is_finite = find_largest(logits, library).isfinite().tolist()
    for index, row in enumerate(rows):
        if row.params.is_greedy or not is_finite[index]:
            choose: _Choice = _take_best
        elif _has_filters(row.params, logits.shape[-1]):
            choose = _draw_filtered
        else:
            choose = _draw_unfiltered
        groups.setdefault(choose, []).append(index)
    return list(groups.items())


def _has_filters(params: SamplingParams, vocab_size: int) -> bool:
    return 0 < params.top_k < vocab_size or params.top_p < 1 or params.min_p > 0


def _take_best(
    logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None
) -> torch.Tensor:
    return find_best(logits, library)


def _draw_unfiltered(
    logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None
) -> torch.Tensor:
    probs = find_probs(logits, _temperatures(logits, rows))
    return draw_from_all(probs, _uniforms(rows, logits.device)[:, :1])


def _draw_filtered(
    logits: torch.Tensor, rows: list[SamplingRow], library: CpuKernels | None
) -> torch.Tensor:
    vocab_size = logits.shape[-1]
    filters = [
        [min(row.params.top_k or vocab_size, vocab_size), row.params.top_p, row.params.min_p]
        for row in rows
    ]
    return sample_filtered(
        logits,
        _temperatures(logits, rows),
        torch.tensor(filters, dtype=torch.double, device=logits.device),
        _uniforms(rows, logits.device),
        library,
    )


def _temperatures(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    return logits.new_tensor([row.params.temperature for row in rows])


def _uniforms(rows: list[SamplingRow], device: torch.device) -> torch.Tensor:
    """Numbers in [0, 1), (num_rows, NUM_UNIFORMS), by nothing but seed and position."""
    numbers = [_uniform_row(row.seed, row.position) for row in rows]
    return torch.tensor(numbers, dtype=torch.double, device=device)


def _uniform_row(seed: int, position: int) -> list[float]:
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8 * NUM_UNIFORMS).digest()
    return [(number >> 11) / (1 << 53) for number in struct.unpack(f">{NUM_UNIFORMS}Q", digest)]
