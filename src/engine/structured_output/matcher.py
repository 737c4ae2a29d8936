"""Compiled grammars, and matchers: the state of one sequence in its grammar.

The grammar's process does the work. `send` sends it new tokens. It answers with the state of the
sequence, and computes the next token mask while the model runs. `find_allowed` collects the masks.
A sequence with a late mask is left out of steps until the mask has come (`is_left_out`).
"""

import select
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from src.engine.structured_output.grammar_process import GrammarProcess, SequenceState
from src.engine.structured_output.source import DeadEndError
from src.engine.structured_output.vocabulary import MaskLayout

MAX_WAIT_SECONDS = 0.05
"""Limit on a step's wait for grammar processes, twice per step; most answer in microseconds."""

END_WAIT_SECONDS = 0.002
"""Limit on a step's wait for the finish reason of sequences at `max_tokens`."""


class Grammar:
    """A compiled grammar; many sequences may share it.

    Args:
        process: process that has compiled the grammar.
        layout: layout of token masks.
        special_token_ids: special tokens that may be part of answers.
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
        """True if new sequences can start."""
        return self._process.is_alive

    def start(self, end_token_ids: frozenset[int]) -> "Matcher":
        """Returns the matcher of a new sequence that these tokens end."""
        barred = self._layout.special_token_ids - self.special_token_ids
        return Matcher(
            self._process,
            end_bits=self._layout.bits(end_token_ids),
            inner_bits=~self._layout.bits(barred | end_token_ids),
        )


class Matcher:
    """State of one sequence in its grammar. Used by the engine's thread only.

    Args:
        process: process of the grammar.
        end_bits: mask of the tokens that end the sequence.
        inner_bits: mask of the tokens that may be part of the sequence.

    Attributes:
        was_late: the last step had no mask for the sequence, so it got no token.
        has_tokens: the sequence has generated tokens.
    """

    def __init__(
        self, process: GrammarProcess, end_bits: NDArray[np.uint8], inner_bits: NDArray[np.uint8]
    ) -> None:
        self.process = process
        self.state = process.open_sequence()
        self.end_bits = end_bits
        self.inner_bits = inner_bits
        self._has_begun = False
        self.was_late = False
        self.has_tokens = False

    @property
    def is_accepting(self) -> bool:
        """True if the sequence may end here."""
        return self.state.is_accepting

    @property
    def is_complete(self) -> bool:
        """True if the sequence must end here, as nothing can follow."""
        return self.state.is_complete and self.is_answered

    @property
    def is_answered(self) -> bool:
        """True if the process has processed all tokens, or the sequence has failed."""
        return not self.state.num_unanswered or bool(self.state.error)

    @property
    def is_ready(self) -> bool:
        """True if the mask is there, or none will come: at the end or after an error."""
        state = self.state
        return bool(state.error) or (
            not state.num_unanswered and (state.mask is not None or state.is_complete)
        )

    @property
    def is_left_out(self) -> bool:
        """True if steps leave the sequence out: its mask was late and has not come yet."""
        return self.was_late and (bool(self.state.error) or self.state.mask is None)

    def begin(self) -> None:
        """Requests the first mask; does not wait."""
        if not self._has_begun:
            self._has_begun = True
            self.process.advance([(self.state, [])])

    def check(self) -> None:
        """Raises DeadEndError if the sequence cannot continue."""
        if self.state.error and not self.state.is_complete:
            raise DeadEndError(self.state.error)

    def fail(self, reason: str) -> None:
        """Marks the sequence as unable to continue."""
        self.state.error = self.state.error or reason
        self.was_late = True

    def end(self) -> None:
        """Accepts a token that ends the sequence.

        Raises:
            DeadEndError: the sequence may not end yet.
        """
        if not self.is_accepting:
            raise DeadEndError("the sequence may not end yet")

    def close(self) -> None:
        """Removes the sequence from the process."""
        self.process.close_sequence(self.state)


def send(steps: Iterable[tuple[Matcher, list[int]]]) -> None:
    """Sends new tokens, without end tokens, to the processes; does not wait."""
    by_process: dict[GrammarProcess, list[tuple[SequenceState, list[int]]]] = {}
    for matcher, token_ids in steps:
        matcher.has_tokens = True
        by_process.setdefault(matcher.process, []).append((matcher.state, token_ids))
    for process, states in by_process.items():
        process.advance(states)


def wait_for_answers(matchers: Sequence[Matcher], timeout: float | None) -> None:
    """Waits until the processes have processed all tokens.

    Args:
        matchers: matchers of any processes.
        timeout: seconds; None for no limit.
    """
    _wait_until(lambda matcher: matcher.is_answered, matchers, timeout)


def find_allowed(
    matchers: Sequence[Matcher],
    ends_early: Sequence[bool],
    timeout: float | None = MAX_WAIT_SECONDS,
) -> tuple[NDArray[np.uint8], list[bool]]:
    """Returns the masks of the tokens that sequences may generate next.

    Args:
        matchers: at least one.
        ends_early: for each matcher, True to ban end tokens while other tokens are allowed.
        timeout: seconds; None for no limit. Then a matcher without a mask is late.

    Returns:
        The masks, (num_matchers, num_bytes), in the order of `MaskLayout`; and for each matcher
        True if it has one. There is none if the mask is late, if the sequence is complete, or if
        no token may follow: then `check` raises.
    """
    for matcher in matchers:
        matcher.begin()
    for matcher in _wait_until(lambda matcher: matcher.is_ready, matchers, timeout):
        matcher.was_late = True
        matcher.process.is_slow = True
    allowed = np.zeros((len(matchers), len(matchers[0].end_bits)), dtype=np.uint8)
    is_filled = [
        _fill(row, matcher, is_early=is_early)
        for row, matcher, is_early in zip(allowed, matchers, ends_early, strict=True)
    ]
    return allowed, is_filled


def _fill(row: NDArray[np.uint8], matcher: Matcher, *, is_early: bool) -> bool:
    """Writes the mask of a matcher into a row of zeros; returns False if there is none."""
    has_ended = matcher.has_tokens and matcher.is_complete
    if has_ended or not matcher.is_ready or matcher.state.error:
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
    """Processes the answers that have arrived.

    Args:
        matchers: matchers of live sequences.
        timeout: seconds to wait for the first answer, if any is due.
    """
    processes = {matcher.process for matcher in matchers if not matcher.is_ready}
    for process in _wait(processes, timeout):
        process.receive()


def _wait_until(
    is_done: Callable[[Matcher], bool], matchers: Sequence[Matcher], timeout: float | None
) -> list[Matcher]:
    """Waits until all matchers are done; returns the late ones.

    Slow processes get no wait: a step has already waited for them once.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while missing := [matcher for matcher in matchers if not is_done(matcher)]:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        processes = {matcher.process for matcher in missing}
        if left is not None and all(process.is_slow for process in processes):
            left = 0
        answering = _wait(processes, left)
        for process in answering:
            process.receive()
        if not answering or left == 0:  # a process may send without end
            break
    return [matcher for matcher in missing if not is_done(matcher)]


def _wait(processes: set[GrammarProcess], timeout: float | None) -> list[GrammarProcess]:
    """Waits for an answer; returns the processes that have answered, or have ended."""
    if ended := [process for process in processes if not process.is_open]:
        return ended
    if not processes:
        return []
    by_descriptor = {process.connection.fileno(): process for process in processes}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    answering = poll.poll(None if timeout is None else 1000 * timeout)
    return [by_descriptor[descriptor] for descriptor, _ in answering]
