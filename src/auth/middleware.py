"""Authentication and authorization of requests, before anything reads their bodies.

The table of routes (`api/routes.py`) says which scope a path needs; unknown paths need `admin`. The
path decides, exactly as it was sent and as the router sees it; no header does.
"""

from collections.abc import Callable
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from src.auth.api_keys import Scope
from src.core.identity import ANONYMOUS, Caller, current_caller
from src.errors import AuthenticationError, LimitStorageDownError, RateLimitedError
from src.limits.rate_limit import RateLimit, limit_response
from src.middleware.error_body import CALLER, INTERNAL_CALLER, error_body
from src.middleware.route_policy import policy_of

REALM = 'Bearer realm="llm-inference"'


class Authenticator(Protocol):
    """Verifies API keys or tokens."""

    def find(self, credential: bytes) -> Caller:
        """Returns the caller that a credential identifies; raises AuthenticationError."""

    def refresh(self, caller: Caller) -> Caller:
        """Returns an earlier caller as it is now; raises AuthenticationError if it lost access."""


class AuthMiddleware:
    """Authenticates requests and checks their scopes; sets the caller in scope and ContextVar.

    Args:
        app: the application.
        finder: returns the current authenticator; None disables authentication.
        limits: counts the requests of each address before authentication.
    """

    def __init__(
        self, app: ASGIApp, finder: Callable[[], Authenticator] | None, limits: RateLimit
    ) -> None:
        self._app = app
        self._finder = finder
        self._limits = limits

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or policy_of(scope).is_public:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._find(scope)
        except (RateLimitedError, LimitStorageDownError) as error:
            await limit_response(scope, error)(scope, receive, send)
            return
        except AuthenticationError as error:
            kind = ', error="invalid_token"' if error.was_given else ""
            await _refuse(scope, 401, str(error), REALM + kind)(scope, receive, send)
            return
        scope[CALLER] = caller
        needed = policy_of(scope).scope
        if self._finder and needed and not {needed, Scope.ADMIN} & caller.scopes:
            message = f"This needs the scope {needed}, which the key does not have."
            challenge = f'{REALM}, error="insufficient_scope", scope="{needed}"'
            await _refuse(scope, 403, message, challenge)(scope, receive, send)
            return
        token = current_caller.set(caller)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)

    async def _find(self, scope: Connection) -> Caller:
        if self._finder is None:
            return ANONYMOUS
        if INTERNAL_CALLER in scope:
            return self._finder().refresh(scope[INTERNAL_CALLER])
        try:
            await self._limits.count_address(scope)
        except LimitStorageDownError:
            if policy_of(scope).is_metered:
                raise  # other routes cost little, and /metrics must report that the storage is down
        return self._finder().find(_credential(scope))


def _credential(scope: Connection) -> bytes:
    """Returns the API key or token of a request.

    Raises:
        AuthenticationError: there is none, or more than one.
    """
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(headers) == 1:
        kind, _, credential = headers[0].partition(b" ")
        if kind.lower() == b"bearer" and credential.strip():
            return bytes(credential.strip())
    key_header = policy_of(scope).family.api_key_header
    if not headers and key_header is not None:
        headers = [value for name, value in scope["headers"] if name == key_header]
        if len(headers) == 1 and headers[0]:
            return bytes(headers[0])
    message = "Send the header `Authorization: Bearer KEY`, once."
    raise AuthenticationError(message, was_given=bool(headers))


def _refuse(scope: Connection, status_code: int, message: str, challenge: str) -> JSONResponse:
    body = error_body(scope, status_code, message)
    return JSONResponse(body, status_code, {"WWW-Authenticate": challenge})
