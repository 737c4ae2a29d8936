"""Prefixes that are still being computed: a sequence waits for its leader, then copies. No torch.

Many answers to one prompt, or many questions after one system prompt, so compute it once.
"""

from src.engine.scheduling.kv_slots import common_length
from src.engine.scheduling.sequence import Sequence

MIN_SHARED_TOKENS = 16
"""A shorter prefix is computed sooner than waited for."""


def follow_leader(sequence: Sequence, running: list[Sequence]) -> None:
    """Sets the leader of a sequence: the one with the longest shared prefix in prefill, if any."""
    limit = len(sequence.token_ids) - 1
    longest = sequence.num_computed_tokens + MIN_SHARED_TOKENS - 1
    for other in running:
        is_same_tenant = other.request.tenant == sequence.request.tenant
        if is_same_tenant and other.is_prefilling and other.num_computed_tokens < limit:
            common = common_length(other.token_ids, sequence.token_ids, limit)
            if common > max(longest, other.num_computed_tokens):
                longest = common
                sequence.leader, sequence.num_shared_tokens = other, common


def is_waiting(sequence: Sequence, running: list[Sequence]) -> bool:
    """Returns True while a sequence's leader runs and lacks a part of the shared prefix."""
    leader = sequence.leader
    return (
        leader is not None
        and leader in running
        and leader.num_computed_tokens < sequence.num_shared_tokens
    )
