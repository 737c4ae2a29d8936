"""The authenticated caller of a request, in a ContextVar from its arrival to its end.

The authentication middleware sets `current_caller`; asyncio copies it to the tasks of the request.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Rate limits of one caller; None is the limit of the settings.

    Args:
        requests: in each period.
        tokens: of prompts and answers, in each period.
        concurrent: requests in progress at the same time.
    """

    requests: int | None = None
    tokens: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """A client by its API key or token.

    Args:
        id: of the key, or the token's subject; empty without authentication.
        name: for logs and reports.
        scopes: permissions.
        limits: rate limits.
        weight: share of the engine in relation to a caller of weight 1.
    """

    id: str = ""
    name: str = ""
    scopes: frozenset[str] = frozenset()
    limits: CallerLimits = field(default_factory=CallerLimits)
    weight: int = 1


ANONYMOUS = Caller()
"""The caller of all requests without authentication."""

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANONYMOUS)
