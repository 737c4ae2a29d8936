"""Authentication and authorization of requests, before anything reads their bodies.

Routes without an entry here need the scope `admin`, so a new route is closed until it is opened.
The path decides, exactly as it was sent and as the router sees it; no header does.
"""

from collections.abc import Callable
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from src.auth.api_keys import Scope
from src.core.identity import ANYBODY, Caller, current_caller
from src.errors import AuthenticationError, LimitStorageDownError, RateLimitedError
from src.limits.rate_limit import RateLimit, limit_response
from src.middleware.error_body import CALLER, Dialect, dialect_of, error_body

REALM = 'Bearer realm="llm-inference"'
API_KEY_HEADER = b"x-api-key"
"""Header in which Anthropic's clients send the key."""

PUBLIC = frozenset(
    {
        "/health",
        "/health/live",
        "/health/ready",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
    }
)
PUBLIC_FOLDER = "/static-offline-docs/"
ANY_KEY = ("/v1/models", "/v1/models/")
SCOPES = {
    "/generate": Scope.GENERATE,
    "/generate/batch": Scope.GENERATE,
    "/tokenize": Scope.GENERATE,
    "/detokenize": Scope.GENERATE,
    "/tokenizer_info": Scope.GENERATE,
    "/v1/completions": Scope.GENERATE,
    "/v1/chat/completions": Scope.GENERATE,
    "/v1/responses": Scope.GENERATE,
    "/v1/messages": Scope.GENERATE,
    "/v1/messages/count_tokens": Scope.GENERATE,
    "/v1/embeddings": Scope.EMBEDDINGS,
    "/metrics": Scope.METRICS,
}
METERED = frozenset(path for path, scope in SCOPES.items() if scope is not Scope.METRICS)
"""Paths of the routes that may use tokens."""


class Authenticator(Protocol):
    """Verifies API keys or tokens."""

    def find(self, credential: bytes) -> Caller:
        """Returns the caller that a credential identifies; raises AuthenticationError."""


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
        if scope["type"] != "http" or is_public(scope["path"]):
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
        needed = needed_scope(scope["path"])
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
            return ANYBODY
        try:
            await self._limits.count_address(scope)
        except LimitStorageDownError:
            if scope["path"] in METERED:
                raise  # other routes cost little, and /metrics must report that the storage is down
        return self._finder().find(_credential(scope))


def is_public(path: str) -> bool:
    """Returns True for paths that need no authentication."""
    return path in PUBLIC or path.startswith(PUBLIC_FOLDER)


def needed_scope(path: str) -> Scope | None:
    """Returns the scope that a path needs; None if any key is enough."""
    if path == ANY_KEY[0] or path.startswith(ANY_KEY[1]):
        return None
    return SCOPES.get(path, Scope.ADMIN)


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
    if not headers and dialect_of(scope) is Dialect.ANTHROPIC:
        headers = [value for name, value in scope["headers"] if name == API_KEY_HEADER]
        if len(headers) == 1 and headers[0]:
            return bytes(headers[0])
    message = "Send the header `Authorization: Bearer KEY`, once."
    raise AuthenticationError(message, was_given=bool(headers))


def _refuse(scope: Connection, status_code: int, message: str, challenge: str) -> JSONResponse:
    body = error_body(scope, status_code, message)
    return JSONResponse(body, status_code, {"WWW-Authenticate": challenge})
