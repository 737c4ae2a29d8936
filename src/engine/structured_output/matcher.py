"""Compiled grammars, and matchers that follow them, one for each sequence.

The work happens in the grammar's process. `send` tells it new tokens. It answers whether the
sequence is complete, and computes the next token mask while the model runs; `find_allowed` takes
the mask. A sequence whose mask does not come in time does not delay the others: it is left out of
steps until it has come (`is_left_out`).
"""

import select
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from src.engine.structured_output.process import GrammarProcess, SequenceState
from src.engine.structured_output.source import DeadEndError
from src.engine.structured_output.vocabulary import MaskLayout

MAX_WAIT_SECONDS = 0.05
"""How long a step waits for grammar processes, at most twice; most answer in microseconds."""

END_WAIT_SECONDS = 0.002
"""How long a step waits to know why sequences end that have all their tokens."""


class Grammar:
    """A compiled grammar, which many sequences may share.

    Args:
        process: has compiled it.
        layout: of token masks.
        special_token_ids: special tokens that are part of answers.
    """

    def __init__(
        self,
        process: GrammarProcess,
        layout: MaskLayout,
        special_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.special_token_ids = special_token_ids
        self._process = process
        self._layout = layout

    @property
    def is_alive(self) -> bool:
        """Whether new sequences can start."""
        return self._process.is_alive

    def start(self, end_token_ids: frozenset[int]) -> "Matcher":
        """Returns a matcher at the beginning, of a sequence that these tokens end."""
        barred = self._layout.special_token_ids - self.special_token_ids
        return Matcher(
            self._process,
            end_bits=self._layout.bits(end_token_ids),
            inner_bits=~self._layout.bits(barred | end_token_ids),
        )


class Matcher:
    """The position of one sequence in its grammar. Used by the engine's thread alone.

    Args:
        process: the grammar's.
        end_bits: mask of the tokens that end the sequence.
        inner_bits: mask of the tokens that may be part of it.
    """

    def __init__(
        self, process: GrammarProcess, end_bits: NDArray[np.uint8], inner_bits: NDArray[np.uint8]
    ) -> None:
        self.process = process
        self.state = process.open_sequence()
        self.end_bits = end_bits
        self.inner_bits = inner_bits
        self._is_begun = False
        self.was_late = False  # since a step that it had no token in
        self.has_tokens = False

    @property
    def is_accepting(self) -> bool:
        """Whether the sequence may end here."""
        return self.state.is_accepting

    @property
    def is_complete(self) -> bool:
        """Whether it must, as nothing can follow."""
        return self.state.is_complete and self.is_answered

    @property
    def is_answered(self) -> bool:
        """Whether the process has taken all tokens."""
        return not self.state.num_unanswered or bool(self.state.error)

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing to wait for."""
        state = self.state
        return bool(state.error) or (
            not state.num_unanswered and (state.mask is not None or state.is_complete)
        )

    @property
    def is_left_out(self) -> bool:
        """Whether the sequence is left out of steps: it was late, and has no mask yet."""
        return self.was_late and (bool(self.state.error) or self.state.mask is None)

    def begin(self) -> None:
        """Asks for the first mask; does not wait."""
        if not self._is_begun:
            self._is_begun = True
            self.process.advance([(self.state, [])])

    def check(self) -> None:
        """Raises DeadEndError if the sequence cannot go on."""
        if self.state.error and not self.state.is_complete:
            raise DeadEndError(self.state.error)

    def fail(self, reason: str) -> None:
        """Makes the sequence one that cannot go on."""
        self.state.error = self.state.error or reason
        self.was_late = True

    def end(self) -> None:
        """Takes a token that ends the sequence.

        Raises:
            DeadEndError: the sequence may not end yet.
        """
        if not self.is_accepting:
            raise DeadEndError("it may not end yet")

    def close(self) -> None:
        """Tells the process that the sequence has ended."""
        self.process.close_sequence(self.state)


def send(steps: Iterable[tuple[Matcher, list[int]]]) -> None:
    """Tells the processes the next tokens of sequences, none of which ends one; does not wait."""
    by_process: dict[GrammarProcess, list[tuple[SequenceState, list[int]]]] = {}
    for matcher, token_ids in steps:
        matcher.has_tokens = True
        by_process.setdefault(matcher.process, []).append((matcher.state, token_ids))
    for process, own in by_process.items():
        process.advance(own)


def wait_for_answers(matchers: Sequence[Matcher], timeout: float | None) -> None:
    """Waits until the processes have taken all tokens.

    Args:
        matchers: of any processes.
        timeout: seconds to wait; None as long as it takes.
    """
    _wait_until(lambda matcher: matcher.is_answered, matchers, timeout)


def find_allowed(
    matchers: Sequence[Matcher],
    ends_early: Sequence[bool],
    timeout: float | None = MAX_WAIT_SECONDS,
) -> tuple[NDArray[np.uint8], list[bool]]:
    """Returns which tokens each sequence may take next.

    Args:
        matchers: at least one.
        ends_early: for each whether it is too early to end, if there is another way to go on.
        timeout: seconds to wait; None as long as it takes. A matcher without a mask is late.

    Returns:
        Bits, (num_matchers, num_bytes), the lowest of a byte first; and for each matcher whether
        its bits are there. They are not where its mask is late, where the sequence is complete, or
        where no token may follow: then `check` raises.
    """
    for matcher in matchers:
        matcher.begin()
    for matcher in _wait_until(lambda matcher: matcher.is_ready, matchers, timeout):
        matcher.was_late = True
        matcher.process.is_slow = True
    allowed = np.zeros((len(matchers), len(matchers[0].end_bits)), dtype=np.uint8)
    are_there = [
        _fill(row, matcher, is_early=is_early)
        for row, matcher, is_early in zip(allowed, matchers, ends_early, strict=True)
    ]
    return allowed, are_there


def _fill(row: NDArray[np.uint8], matcher: Matcher, *, is_early: bool) -> bool:
    is_over = matcher.has_tokens and matcher.is_complete
    if is_over or not matcher.is_ready or matcher.state.error:
        matcher.was_late = True
        return False
    if matcher.state.mask is not None:
        np.bitwise_and(matcher.state.mask, matcher.inner_bits, out=row)
    if matcher.is_accepting and not (is_early and row.any()):
        np.bitwise_or(row, matcher.end_bits, out=row)
    if not row.any():
        matcher.fail("no token may follow")
        return False
    matcher.was_late = False
    return True


def receive(matchers: Iterable[Matcher], timeout: float = 0) -> None:
    """Takes the answers that have come.

    Args:
        matchers: of sequences that are live.
        timeout: seconds to wait for the first, if one is to come.
    """
    processes = {one.process for one in matchers if not one.is_ready}
    for process in _wait(processes, timeout):
        process.receive()


def _wait_until(
    is_done: Callable[[Matcher], bool], matchers: Sequence[Matcher], timeout: float | None
) -> list[Matcher]:
    """Waits until all matchers are done; returns those that are not in time.

    It does not wait for processes that are slow: they had their one wait.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while missing := [one for one in matchers if not is_done(one)]:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        processes = {one.process for one in missing}
        if left is not None and all(process.is_slow for process in processes):
            left = 0
        answering = _wait(processes, left)
        for process in answering:
            process.receive()
        if not answering or left == 0:  # a process may send without end
            break
    return [one for one in missing if not is_done(one)]


def _wait(processes: set[GrammarProcess], timeout: float | None) -> list[GrammarProcess]:
    """Returns the processes that have answered, or ended."""
    if ended := [one for one in processes if not one.is_open]:
        return ended
    if not processes:
        return []
    by_descriptor = {one.connection.fileno(): one for one in processes}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    answering = poll.poll(None if timeout is None else 1000 * timeout)
    return [by_descriptor[descriptor] for descriptor, _ in answering]
