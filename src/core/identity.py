"""Who asks: known from a request's arrival on to whatever works for it, as an id of a trace is.

The web layer sets `current_caller`; asyncio hands it on to the tasks that a request starts.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What one caller may have; None is what the settings say.

    Args:
        requests: in each period.
        tokens: of prompts and answers, in each period.
        concurrent: requests that are answered at the same time.
    """

    requests: int | None = None
    tokens: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who may ask.

    Args:
        id: of the key, or of the token's subject; empty if nobody has to say who they are.
        name: for people.
        scopes: what they may do.
        limits: how much of it.
        weight: turns in the queue for each turn of a caller of weight 1.
    """

    id: str = ""
    name: str = ""
    scopes: frozenset[str] = frozenset()
    limits: CallerLimits = field(default_factory=CallerLimits)
    weight: int = 1


ANYBODY = Caller()

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANYBODY)
