"""Preemption: which tenant gets the next running place, and which sequence makes way. No torch.

A place lets one sequence run. A tenant's share is its number of places, divided by its weight. The
goal is weighted max-min fairness (Bertsekas & Gallager, "Data Networks", 1992): the smallest share
is as large as possible, then the second smallest, and so on. Places are whole, so shares are equal
only nearly.

`choose_placement` gives out one place at a time:

1. The taker is the waiting tenant that has the smallest share once it holds one place more.
2. If a place is free, it goes to the first tenant in the queue with a share below the taker's new
   one. Any other tenant would lose the place to the taker at once.
3. If none is free, another tenant loses one to the taker: the tenant that keeps the largest share.
   What it keeps must be at least the taker's new share; else nothing moves.

Example with weights of 1: tenant A runs four sequences in four places, and tenant B waits. B takes
one place, then another one, and both hold two. A third one would leave B three and A one: B waits.

The preempted sequence, the victim, is its tenant's newest one, which loses the least work. It is
computed again later (preemption by recomputation, as in vLLM; Kwon et al. 2023, arXiv:2309.06180).

Background work (`waiting_queue`) makes way for all other work, whatever the shares. Places and
blocks are shared among it, and among the rest, as if the others were not there.

Four properties follow, in the foreground, and in the background without it:
- A tenant alone is never preempted.
- The oldest sequence of a tenant is never preempted, so each tenant that runs makes progress.
- Each preemption lowers the sum of places² / weight over all tenants, so places do not go back and
  forth.
- The tenant with the smallest share takes first, so no sequence is admitted and preempted in one
  step.

Blocks of the KV cache are shared by the same rule, with a block for a place. `choose_victim` finds
the sequence that gives its blocks to one that waits. `choose_victim_of_growth` finds the one that
gives them to running sequences, which need a block for each few tokens that they generate.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from src.engine.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with waiting sequences.

    Args:
        name: as in its requests.
        weight: the tenant's share of the places, relative to a tenant of weight 1.
        in_background: these sequences are in the background.
    """

    name: str
    weight: int
    in_background: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The next admission.

    Args:
        tenant: its first waiting sequence, of the foreground or background, gets a place.
        victim: running sequence to preempt; None if a place is free.
    """

    tenant: Tenant
    victim: Sequence | None = None


def choose_placement(
    running: list[Sequence], waiting: list[Tenant], *, has_room: bool
) -> Placement | None:
    """Returns the next admission, or None if there is none in this step.

    Args:
        running: in the order of their admission.
        waiting: at least one tenant, in the order of the queue; either all or none are in the
            background.
        has_room: True if a place is free.
    """
    in_background = waiting[0].in_background
    num_held = Counter(one.request.tenant for one in running if one.in_background == in_background)
    # `min` takes the first of equals, which is the next one in the queue.
    taker = min(waiting, key=lambda one: (num_held[one.name] + 1) / one.weight)
    share = (num_held[taker.name] + 1) / taker.weight  # of the taker, with the new place
    if has_room:
        # A tenant that holds that share already would lose the place to the taker at once.
        return Placement(next(one for one in waiting if num_held[one.name] / one.weight < share))
    victim = _find_victim(running, lambda _: 1, share, of_background=in_background)
    return None if victim is None else Placement(taker, victim)


def choose_victim(running: list[Sequence], taker: Sequence, num_blocks: int) -> Sequence | None:
    """Returns the sequence that gives its blocks to a waiting one, if any, by the same rule.

    Args:
        running: in the order of their admission.
        taker: it waits; its tokens do not fit the free blocks.
        num_blocks: number of blocks of these tokens.
    """
    tenant = taker.request.tenant
    rivals = [one for one in running if one.in_background == taker.in_background]
    num_held = sum(len(one.blocks) for one in rivals if one.request.tenant == tenant)
    share = (num_held + num_blocks) / taker.request.weight
    of_background = taker.in_background
    return _find_victim(running, lambda one: len(one.blocks), share, of_background=of_background)


def choose_victim_of_growth(running: list[Sequence]) -> Sequence:
    """Returns the sequence that gives its blocks to running ones, which have none for a new token.

    It is the newest sequence of the tenant with the most blocks for its weight, of the background
    if it can be. The oldest of all sequences, first of the foreground, is not chosen, so one at
    least always goes on to its end.

    Args:
        running: at least two, in the order of their admission.
    """
    _, *others = sorted(running, key=lambda one: one.in_background)
    victim = _find_victim(others, lambda one: len(one.blocks), 0)
    assert victim is not None
    return victim


def _find_victim(
    running: list[Sequence],
    size: Callable[[Sequence], int],
    min_share: float,
    *,
    of_background: bool = False,
) -> Sequence | None:
    """Returns the newest sequence of the tenant with the largest share without it.

    A sequence of the background makes way for one of the foreground, whatever their shares.

    Args:
        running: in the order of their admission.
        size: what a sequence holds.
        min_share: None is returned if that share is lower.
        of_background: it makes way for a sequence of the background.
    """
    background = [one for one in running if one.in_background]
    if background and not of_background:
        min_share = 0
    if background or of_background:
        running = background
    held: Counter[str] = Counter()
    for one in running:
        held[one.request.tenant] += size(one)
    newest = {one.request.tenant: one for one in running}
    shares = {name: (held[name] - size(one)) / one.request.weight for name, one in newest.items()}
    if not shares:
        return None
    tenant = max(shares, key=shares.__getitem__)
    return newest[tenant] if shares[tenant] >= min_share else None
