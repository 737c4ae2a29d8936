"""Prefixes that are just being computed: a sequence waits for its leader, and copies. No torch."""

from src.engine.scheduling.kv_slots import common_length
from src.engine.scheduling.sequence import Sequence

MIN_SHARED_TOKENS = 16
"""A shorter prefix is computed sooner than waited for."""


def follow_leader(sequence: Sequence, running: list[Sequence]) -> None:
    """Makes a sequence wait for one that computes a longer prefix of it than is held yet."""
    limit = len(sequence.token_ids) - 1
    longest = sequence.num_computed_tokens + MIN_SHARED_TOKENS - 1
    for other in running:
        is_own = other.request.tenant == sequence.request.tenant
        if is_own and other.is_prefilling and other.num_computed_tokens < limit:
            common = common_length(other.token_ids, sequence.token_ids, limit)
            if common > max(longest, other.num_computed_tokens):
                longest = common
                sequence.leader, sequence.num_shared_tokens = other, common


def is_waiting(sequence: Sequence, running: list[Sequence]) -> bool:
    """Whether a sequence's leader is there and has not computed the shared prefix yet."""
    leader = sequence.leader
    return (
        leader is not None
        and leader in running
        and leader.num_computed_tokens < sequence.num_shared_tokens
    )
