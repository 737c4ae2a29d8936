"""Selection of each sequence's next token from its logits, for all sequences of a step at once.

The uniform numbers of a token are a hash of the request's seed and the token's position. So a
seeded request gives the same text in any batch, and a step can be repeated.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

from src.engine.logprobs import SampledToken
from src.engine.sampling.kernels import SamplingKernels, softmax
from src.engine.sampling.logits_processors import (
    ban,
    change_logits,
    changes_logits,
    keep_allowed,
    keep_only,
)
from src.engine.sampling.logprobs import LogprobsReport
from src.engine.sampling.top_k_top_p import NUM_UNIFORMS, sample_filtered, sample_unfiltered
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.matcher import Matcher, find_allowed


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """Parameters and state of one row's sequence.

    Args:
        params: the request's.
        seed: the request's, or a random one.
        token_ids: all tokens so far, the prompt's first; shared, so they must not be changed.
        num_prompt_tokens: number of the prompt's tokens among them.
        banned_token_ids: never selected: the end tokens, before min_tokens.
        matcher: state of the sequence's grammar, or None.
        draft: draft tokens between `token_ids` and the next token.
        forced_token_id: the next token, whatever the logits; None leaves it free.
        offered_token_id: token that is possible although the grammar does not allow it.
    """

    params: SamplingParams
    seed: int
    token_ids: list[int]
    num_prompt_tokens: int
    banned_token_ids: frozenset[int] = frozenset()
    matcher: Matcher | None = None
    draft: tuple[int, ...] = ()
    forced_token_id: int | None = None
    offered_token_id: int | None = None

    @property
    def position(self) -> int:
        """Position of the next token."""
        return len(self.token_ids) + len(self.draft)


_Strategy = Callable[[torch.Tensor, list[SamplingRow]], torch.Tensor]
"""Maps logits, (num_rows, vocab_size), and their rows to token ids, (num_rows,)."""


class Sampler:
    """Samples the tokens of a step.

    Args:
        kernels: PyTorch's operations or our own.
    """

    def __init__(self, kernels: SamplingKernels) -> None:
        self._kernels = kernels

    def has_nan(self, logits: torch.Tensor) -> bool:
        """Checks logits, (num_rows, vocab_size), for NaN."""
        return bool(self._kernels.max(logits).isnan().any())

    def sample(self, logits: torch.Tensor, rows: list[SamplingRow]) -> list[SampledToken | None]:
        """Selects a token for each row; None if the row's token mask was not ready in time.

        Log-probabilities are those of the raw logits, before bias, penalties, bans, grammar and
        temperature, or of the processed ones, as `logprobs_mode` says. If all tokens of a row are
        impossible, it gets one of them.

        Args:
            logits: (num_rows, vocab_size), float32; they are changed in place.
            rows: one for each row of logits.

        Raises:
            DeadEndError: a row's grammar allows no token.
        """
        report = LogprobsReport(logits, [row.params for row in rows])
        _process_logits(logits, rows)
        late = _apply_grammars(logits, rows)
        token_ids = self._select(logits, rows)
        positions = report.find(logits, token_ids)
        return [
            None if index in late else SampledToken(token_id, positions.get(index))
            for index, token_id in enumerate(token_ids)
        ]

    def _select(self, logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
        """Returns a token id for each row."""
        token_ids = [0] * len(rows)
        for strategy, indices in self._group(logits, rows):
            part = logits if len(indices) == len(rows) else logits[indices]
            selected = strategy(part, [rows[index] for index in indices]).tolist()
            for index, token_id in zip(indices, selected, strict=True):
                token_ids[index] = token_id
        return token_ids

    def _group(
        self, logits: torch.Tensor, rows: list[SamplingRow]
    ) -> list[tuple[_Strategy, list[int]]]:
        """Groups row indices by strategy; most batches have one."""
        if all(row.params.is_greedy for row in rows):
            return [(self._take_argmax, list(range(len(rows))))]
        groups: dict[_Strategy, list[int]] = {}
        # The softmax of a row needs a finite maximum.
        is_finite = self._kernels.max(logits).isfinite().tolist()
        for index, row in enumerate(rows):
            if row.params.is_greedy or not is_finite[index]:
                strategy: _Strategy = self._take_argmax
            elif _has_filters(row.params, logits.shape[-1]):
                strategy = self._sample_filtered
            else:
                strategy = self._sample_unfiltered
            groups.setdefault(strategy, []).append(index)
        return list(groups.items())

    def _take_argmax(self, logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
        return self._kernels.argmax(logits)

    def _sample_unfiltered(self, logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
        probs = softmax(logits, _temperatures(logits, rows))
        return sample_unfiltered(probs, _uniforms(rows, logits.device)[:, :1])

    def _sample_filtered(self, logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
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
            self._kernels,
        )


def _process_logits(logits: torch.Tensor, rows: list[SamplingRow]) -> None:
    """Applies bias, penalties, bans and forced tokens in place; a grammar has its own bans."""
    for index, row in enumerate(rows):
        if changes_logits(row.params):
            token_ids = [*row.token_ids, *row.draft] if row.draft else row.token_ids
            change_logits(logits[index], row.params, token_ids, row.num_prompt_tokens)
        if row.banned_token_ids and row.matcher is None:
            ban(logits[index], row.banned_token_ids)
        if row.forced_token_id is not None:
            keep_only(logits[index], row.forced_token_id)


def _apply_grammars(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    """Masks tokens that the rows' grammars do not allow; returns rows with a late mask."""
    constrained = [
        (index, row, row.matcher) for index, row in enumerate(rows) if row.matcher is not None
    ]
    if not constrained:
        return []
    bans_end = [bool(row.banned_token_ids) for _, row, _ in constrained]
    bits, is_ready = find_allowed([matcher for _, _, matcher in constrained], bans_end)
    pairs = list(zip((index for index, _, _ in constrained), is_ready, strict=True))
    late = [index for index, mask_is_ready in pairs if not mask_is_ready]
    ready = [index for index, mask_is_ready in pairs if mask_is_ready]
    if not ready:
        return late
    offered = [
        (index, row.offered_token_id, logits[index, row.offered_token_id].item())
        for index in ready
        if (row := rows[index]).offered_token_id is not None
    ]
    keep_allowed(logits, ready, bits[is_ready] if late else bits)
    for index, token_id, logit in offered:
        logits[index, token_id] = logit
    return late


def _has_filters(params: SamplingParams, vocab_size: int) -> bool:
    return 0 < params.top_k < vocab_size or params.top_p < 1 or params.min_p > 0


def _temperatures(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    return logits.new_tensor([row.params.temperature for row in rows])


def _uniforms(rows: list[SamplingRow], device: torch.device) -> torch.Tensor:
    """Returns numbers in [0, 1) that depend only on seed and position: (num_rows, NUM_UNIFORMS)."""
    numbers = [_uniform_row(row.seed, row.position) for row in rows]
    return torch.tensor(numbers, dtype=torch.double, device=device)


def _uniform_row(seed: int, position: int) -> list[float]:
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8 * NUM_UNIFORMS).digest()
    return [(number >> 11) / (1 << 53) for number in struct.unpack(f">{NUM_UNIFORMS}Q", digest)]
