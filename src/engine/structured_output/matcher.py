"""Compiled grammars, and the matchers that follow them, one for each sequence.

llguidance says which tokens may come next, as bits. Of special tokens only those may that the
grammar was given; a token that ends the sequence may where the grammar is satisfied. A matcher
changes in `advance` alone, so a step that failed can be run again.
"""

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from src.engine.structured_output.source import DeadEndError
from src.engine.structured_output.vocabulary import Vocabulary


class Grammar:
    """A compiled grammar, which many sequences may share; `compile_grammar` makes it.

    Args:
        vocabulary: of the model.
        matcher: at the beginning; it stays there.
        special_token_ids: special tokens that are a part of answers.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: LLMatcher,
        special_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.special_token_ids = special_token_ids
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._barred = vocabulary.special & ~vocabulary.bits(special_token_ids)

    def start(self, end_token_ids: frozenset[int]) -> "Matcher":
        """A matcher at the beginning, of a sequence that these tokens end."""
        matcher = self._matcher.deep_copy()
        return Matcher(self._vocabulary, matcher, end_token_ids, self._barred)


class Matcher:
    """Where one sequence stands in its grammar.

    Args:
        vocabulary: of the model.
        matcher: its own.
        end_token_ids: tokens that end the sequence.
        barred: bits of those that are never a part of it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: LLMatcher,
        end_token_ids: frozenset[int],
        barred: NDArray[np.uint8],
    ) -> None:
        self.vocabulary = vocabulary
        self.matcher = matcher
        self.end_bits = vocabulary.bits(end_token_ids)
        self.inner_bits = ~(barred | self.end_bits)

    @property
    def is_accepting(self) -> bool:
        """Whether the sequence may end here."""
        return self.matcher.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether it must, as nothing can follow."""
        return self.matcher.is_stopped() and self.matcher.is_accepting()

    def advance(self, token_id: int) -> None:
        """Takes the sequence's next token, which does not end it.

        Raises:
            DeadEndError: the grammar does not allow it.
        """
        if not self.matcher.consume_token(token_id):
            raise DeadEndError(self.matcher.get_error())

    def end(self) -> None:
        """Takes a token that ends the sequence.

        Raises:
            DeadEndError: the sequence may not end yet.
        """
        if not self.is_accepting:
            raise DeadEndError("it may not end yet")


def find_allowed(matchers: list[Matcher], ends_early: list[bool]) -> NDArray[np.uint8]:
    """Returns which tokens each may take next; lets go of the interpreter lock meanwhile.

    Args:
        matchers: of one vocabulary, at least one.
        ends_early: for each whether it is too early to end, if there is another way to go on.

    Returns:
        Bits, (num_matchers, num_bytes), the lowest of a byte first.

    Raises:
        DeadEndError: one of them has no way to go on.
    """
    vocabulary = matchers[0].vocabulary
    allowed = np.zeros((len(matchers), vocabulary.num_bytes), dtype=np.uint8)
    vocabulary.executor.unsafe_compute_mask_ptr(
        [(one.matcher, row) for row, one in enumerate(matchers)],
        allowed.ctypes.data,
        vocabulary.num_bytes,
        len(matchers),
    )
    for row, one, is_early in zip(allowed, matchers, ends_early, strict=True):
        np.bitwise_and(row, one.inner_bits, out=row)
        if one.is_accepting and not (is_early and row.any()):
            np.bitwise_or(row, one.end_bits, out=row)
        if one.matcher.is_error() or not row.any():
            raise DeadEndError(one.matcher.get_error() or "no token may follow")
    return allowed
