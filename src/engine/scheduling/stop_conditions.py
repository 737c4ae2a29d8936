"""Ends of sequences: an end token, a complete grammar, or `max_tokens`. No torch."""

from src.engine.request import FinishReason
from src.engine.scheduling.sequence import Sequence


def find_end(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Returns the reason why a sequence ends with its newest token; None if it goes on.

    A grammar's process answers later: `find_late_end` finds the ends of such sequences, but for end
    tokens.

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
    """Returns the reason why a sequence with a grammar ends, once its process has answered.

    None if it goes on, or has no grammar, or no answer yet.

    Raises:
        DeadEndError: the grammar allows no further token, and the sequence is not complete.
    """
    matcher = sequence.matcher
    if matcher is None or not matcher.is_answered:
        return None
    if matcher.is_complete and matcher.has_tokens:
        return FinishReason.STOP
    matcher.check()
    return FinishReason.LENGTH if sequence.is_full else None
