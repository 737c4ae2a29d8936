"""Ends of sequences: an end token, a complete grammar, or the number of tokens. No torch."""

from typing import TYPE_CHECKING

from src.engine.request import FinishReason
from src.engine.scheduling.sequence import ScheduledSequence, Sequence, SequenceResult

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Matcher


def grammar_steps(
    scheduled: list[ScheduledSequence], results: list[SequenceResult]
) -> "list[tuple[Matcher, list[int]]]":
    """Returns the new tokens of sequences with grammars, without those that end one."""
    steps: list[tuple[Matcher, list[int]]] = []
    for one, result in zip(scheduled, results, strict=True):
        sequence = one.sequence
        token_ids = [token.token_id for token in result.tokens]
        if sequence.matcher is not None and not sequence.end_token_ids.intersection(token_ids):
            steps.append((sequence.matcher, token_ids))
    return [(matcher, token_ids) for matcher, token_ids in steps if token_ids]


def find_end(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Returns why a sequence ends with its newest token; None if it goes on.

    Whether its grammar is complete is not known yet: `find_late_end` finds that.

    Raises:
        DeadEndError: the grammar does not allow the token.
    """
    matcher = sequence.matcher
    if token_id in sequence.end_token_ids:
        if matcher is not None:
            matcher.end()
        return FinishReason.STOP
    if matcher is not None:
        return None
    return FinishReason.LENGTH if sequence.is_full else None


def find_late_end(sequence: Sequence) -> FinishReason | None:
    """Returns why a sequence with a grammar ends, once its process has answered; None if not.

    Raises:
        DeadEndError: it cannot go on.
    """
    matcher = sequence.matcher
    if matcher is None or not matcher.is_answered:
        return None
    if matcher.is_complete and matcher.has_tokens:
        return FinishReason.STOP
    matcher.check()
    return FinishReason.LENGTH if sequence.is_full else None
