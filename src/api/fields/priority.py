"""A request's priority class: the fields `priority` (vLLM's) and `service_tier` (OpenAI's)."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from src.auth.api_keys import Scope
from src.core.identity import ANONYMOUS, current_caller
from src.core.priority import current_priority
from src.engine.request import Priority
from src.middleware.ignored_fields import ignored_fields

PriorityField = Annotated[
    Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)] | None,
    Field(
        description="Extension: below 0 before the key's other requests, for keys with the scope"
        " `priority`; above 0 in the background, in what all other requests leave. Default: 0.",
        examples=[0],
    ),
]
ServiceTier = Annotated[
    Literal["auto", "default", "flex", "priority", "scale"] | None,
    Field(
        description="`priority`: as `priority` below 0. `flex`: in the background, as `priority`"
        " above 0. Others: neither."
    ),
]
UsedTier = Literal["default", "flex", "priority"]

CLASSES = {"priority": Priority.INTERACTIVE, "flex": Priority.BATCH}
TIERS: dict[Priority, UsedTier] = {
    Priority.INTERACTIVE: "priority",
    Priority.DEFAULT: "default",
    Priority.BATCH: "flex",
}


def use_priority(body: object) -> None:
    """Sets the class of the request that is being answered.

    The requests of a batch stay in the background. A key without the scope `priority` cannot raise
    its requests: the field has no effect then, of which the answer warns.

    Args:
        body: wire model with a field `priority`, which precedes its `service_tier`, if it has one.
    """
    if current_priority.get() is Priority.BATCH:
        return
    priority = getattr(body, "priority", None)
    wanted = CLASSES.get(getattr(body, "service_tier", None) or "", Priority.DEFAULT)
    if priority:
        wanted = Priority.INTERACTIVE if priority < 0 else Priority.BATCH
    elif priority is not None:
        wanted = Priority.DEFAULT
    if wanted is Priority.INTERACTIVE and not _may_raise():
        wanted, ignored = Priority.DEFAULT, ignored_fields()
        if ignored is not None:
            ignored.without_effect["priority" if priority else "service_tier"] = None
    current_priority.set(wanted)


def _may_raise() -> bool:
    caller = current_caller.get()
    return caller is ANONYMOUS or not {Scope.PRIORITY, Scope.ADMIN}.isdisjoint(caller.scopes)


def used_tier() -> UsedTier:
    """Returns the tier of the request that is being answered."""
    return TIERS[current_priority.get()]
