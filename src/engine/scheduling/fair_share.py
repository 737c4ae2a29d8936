"""Weighted max-min fairness of the places that sequences run in, with preemption. No torch.

A place goes to the tenant that has least for its weight. Where all places are taken, a tenant takes
one from another if that one, without it, still has at least as many places for its weight as the
taker then has. The newest sequence gives way and is computed again later (preemption by recompute,
as in vLLM), so the least work is lost.

Four things follow. A tenant alone is never preempted. The oldest sequence of a tenant is never
preempted, so each tenant that runs gets on. Each preemption lowers the sum of held² / weight over
all tenants, so places are not passed back and forth. The tenant with least takes first, so no
sequence is admitted and preempted in one step.
"""

from collections import Counter
from dataclasses import dataclass

from src.engine.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant that waits, and the places that it is due for each of a tenant of weight 1."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Turn:
    """The next admission.

    Args:
        tenant: its first waiting sequence is admitted.
        victim: a sequence that gives way; None if a place is free.
    """

    tenant: str
    victim: Sequence | None = None


def choose_turn(running: list[Sequence], waiting: list[Tenant], *, has_room: bool) -> Turn | None:
    """Returns the next admission, or None if there is none in this step.

    Args:
        running: in the order of their admission.
        waiting: at least one tenant, in the order of the queue's turns.
        has_room: whether a place is free.
    """
    held = Counter(one.request.tenant for one in running)
    # `min` takes the first of equals, which has the next turn.
    taker = min(waiting, key=lambda one: (held[one.name] + 1) / one.weight)
    then = (held[taker.name] + 1) / taker.weight
    if has_room:
        # A tenant that already has as much as the taker would then have loses it to that at once.
        return Turn(next(one.name for one in waiting if held[one.name] / one.weight < then))
    victim, kept = _find_victim(running, held)
    return Turn(taker.name, victim) if then <= kept else None


def _find_victim(running: list[Sequence], held: Counter[str]) -> tuple[Sequence, float]:
    """The newest sequence of the tenant that keeps most without it, and how much for its weight."""
    newest = {one.request.tenant: one for one in running}
    kept = {name: (held[name] - 1) / one.request.weight for name, one in newest.items()}
    tenant = max(kept, key=kept.__getitem__)
    return newest[tenant], kept[tenant]
