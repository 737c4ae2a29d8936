"""Speculative decoding without a draft model: prompt lookup (Saxena 2023). No torch.

A step reads all weights, however few tokens it computes, so a few more cost little. If the last
tokens of a sequence occurred in it before, the tokens that followed there are a good draft:
summaries, edits and code repeat their prompt. The step computes the draft together with the token
that is due, and samples at each position. Drafted tokens are accepted as far as they were sampled
(Leviathan et al. 2023, arXiv:2211.17192), so the text is the same as without, to the seed.
"""

from dataclasses import dataclass
from itertools import cycle, islice

NGRAM_SIZE = 3
"""Number of last tokens that have to occur before."""


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Limits of drafts.

    Args:
        max_draft_tokens: longest draft of one sequence; 0 turns speculative decoding off.
        tokens_per_step: drafts fill a step up to this size; until there its time hardly grows.
    """

    max_draft_tokens: int = 0
    tokens_per_step: int = 16

    def per_sequence(self, num_tokens: int, num_sequences: int) -> int:
        """Returns the longest draft of each sequence in a step.

        Args:
            num_tokens: tokens in the step, without drafts.
            num_sequences: sequences in the step.
        """
        num_left = max(0, self.tokens_per_step - num_tokens)
        return min(self.max_draft_tokens, num_left // max(1, num_sequences))


class PromptLookup:
    """Index of the n-grams of one sequence, each with its last position.

    Args:
        token_ids: of the sequence, which appends to this list.
        max_draft_tokens: longest draft.
    """

    def __init__(self, token_ids: list[int], max_draft_tokens: int) -> None:
        self._token_ids = token_ids
        self._max_draft_tokens = max_draft_tokens
        self._length = max_draft_tokens  # of the next draft
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_indexed = NGRAM_SIZE

    def draft(self, limit: int) -> list[int]:
        """Returns up to `limit` tokens; none if the last n-gram occurs nowhere else."""
        token_ids = self._token_ids
        for end in range(self._num_indexed, len(token_ids)):
            self._ends[tuple(token_ids[end - NGRAM_SIZE : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids))
        start = self._ends.get(tuple(token_ids[-NGRAM_SIZE:]))
        if start is None:
            return []
        length = min(limit, self._length)
        followers = token_ids[start : start + length]
        return list(islice(cycle(followers), length))  # few followers mean a loop, which goes on

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Doubles the next draft's length if all of this one was accepted, otherwise cuts it.

        The cut leaves the number of accepted tokens, at least 1.
        """
        if num_accepted == num_drafted:
            self._length = min(2 * self._length, self._max_draft_tokens)
        else:
            self._length = max(1, num_accepted)
