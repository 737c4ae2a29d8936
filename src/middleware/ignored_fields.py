"""Fields that a request set in vain: collected while it is read, named in the header `Warning`.

The wire models of OpenAI's and Anthropic's APIs record them (`api/fields/shared.py`).
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IGNORED_FIELDS = "ignored_fields"
"""Key of a request's `IgnoredFields` in its ASGI scope."""

MAX_NAMES = 16
"""Names in a header; further ones are counted."""

MAX_NAME_LENGTH = 64
NOT_IN_A_HEADER = re.compile(r'[^\x20-\x7e]|["\\,]')
"""Characters that end a quoted text or a header, or that headers cannot hold."""

_ignored_fields: ContextVar["IgnoredFields | None"] = ContextVar("ignored_fields", default=None)


@dataclass(slots=True)
class IgnoredFields:
    """Fields of one request that have no effect.

    Args:
        refuses_unknown: unknown fields are refused, so they are not recorded.
        without_effect: names of known fields, in order.
        unknown: names of unknown fields, and of tools that are left out.
    """

    refuses_unknown: bool
    without_effect: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """Returns values of the header `Warning` (RFC 7234, section 5.5)."""
        texts = {"without effect": self.without_effect, "ignored": self.unknown}
        return [f'299 - "{kind}: {listed(names)}"' for kind, names in texts.items() if names]


def listed(names: dict[str, None]) -> str:
    """Returns the names as a text that a header can hold."""
    shown = [NOT_IN_A_HEADER.sub("?", name[:MAX_NAME_LENGTH]) for name in [*names][:MAX_NAMES]]
    more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join(shown + more)


def ignored_fields() -> IgnoredFields | None:
    """Returns the collection of the request that is being read; None outside of one."""
    return _ignored_fields.get()


class IgnoredFieldsMiddleware:
    """Collects the fields of each request that have no effect, and names them in its answer.

    Args:
        app: the app inside.
        refuses_unknown: unknown fields are refused (UNKNOWN_FIELDS).
    """

    def __init__(self, app: ASGIApp, *, refuses_unknown: bool) -> None:
        self._app = app
        self._refuses_unknown = refuses_unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[IGNORED_FIELDS] = ignored = IgnoredFields(self._refuses_unknown)

        async def send_with_warnings(message: Message) -> None:
            if message["type"] == "http.response.start":
                for warning in ignored.warnings():
                    MutableHeaders(scope=message).append("Warning", warning)
            await send(message)

        token = _ignored_fields.set(ignored)
        try:
            await self._app(scope, receive, send_with_warnings)
        finally:
            _ignored_fields.reset(token)
