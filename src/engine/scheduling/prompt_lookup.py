"""Guesses what comes next from what was there already: speculative decoding without a second model.

A step reads all weights once, however few tokens it computes, so a few more cost little. Where the
last tokens of a sequence stand in it already, what followed them there is a good guess of what
follows now ("prompt lookup"; Saxena 2023): summaries, edits and code repeat their prompt. The model
computes the guess beside the token that is due, each position draws its token as it always does,
and as many guessed tokens stay as were drawn. So the text is the same as without, to the seed. No
torch.
"""

from dataclasses import dataclass
from itertools import cycle, islice

NUM_MATCHED = 3
"""As many tokens in a row have to be the same."""


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """How much is guessed.

    Args:
        most: tokens of one sequence's guess; 0 guesses nothing.
        tokens_per_step: a step of so many tokens takes hardly longer than a smaller one, so no step
            becomes larger by guesses.
    """

    most: int = 0
    tokens_per_step: int = 16

    def per_sequence(self, num_tokens: int, num_sequences: int) -> int:
        """How many tokens each of a step's sequences may guess beside those that are due."""
        left = max(0, self.tokens_per_step - num_tokens)
        return min(self.most, left // max(1, num_sequences))


class PromptLookup:
    """Where each run of `NUM_MATCHED` tokens stood last, for one sequence.

    Args:
        token_ids: of the sequence; the owner appends to it.
        most: tokens of a guess at most.
    """

    def __init__(self, token_ids: list[int], most: int) -> None:
        self._token_ids = token_ids
        self._most = most
        self._length = most  # of a guess, as far as the last ones were right
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_indexed = NUM_MATCHED

    def draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next; none if the last ones stand nowhere else."""
        token_ids = self._token_ids
        for end in range(self._num_indexed, len(token_ids)):
            self._ends[tuple(token_ids[end - NUM_MATCHED : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids))
        found = self._ends.get(tuple(token_ids[-NUM_MATCHED:]))
        if found is None:
            return []
        length = min(limit, self._length)
        repeated = token_ids[found : found + length]  # and again, if it is short: a loop goes on
        return list(islice(cycle(repeated), length))

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Makes the next guess longer if all of this one was right, and else as short as it was."""
        if num_accepted == num_drafted:
            self._length = min(2 * self._length, self._most)
        else:
            self._length = max(1, num_accepted)
