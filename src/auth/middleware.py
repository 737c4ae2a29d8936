"""Who may do what: each request is somebody's, or it is refused, before anything reads it.

What is not named here needs the scope `admin`: a new route is closed until somebody opens it. The
path as it was sent decides, which is what routes are chosen by, and no header does.
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
"""Where Anthropic's clients send it."""

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
"""Where tokens are used, or could be."""


class Authenticator(Protocol):
    """Knows whose a key or a token is."""

    def find(self, credential: bytes) -> Caller:
        """Raises AuthenticationError if it is nobody's."""


class AuthMiddleware:
    """Lets through requests of those who may make them, and says who that is.

    Args:
        app: what they are for.
        finder: returns who knows whose a credential is; None lets everybody do everything.
        limits: counts the requests of each address before anything is made of them.
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
                raise  # the rest costs little, and /metrics tells that the storage is down
        return self._finder().find(_credential(scope))


def is_public(path: str) -> bool:
    """Whether nobody has to say who they are."""
    return path in PUBLIC or path.startswith(PUBLIC_FOLDER)


def needed_scope(path: str) -> Scope | None:
    """What one must be allowed to do there; None: any key will do."""
    if path == ANY_KEY[0] or path.startswith(ANY_KEY[1]):
        return None
    return SCOPES.get(path, Scope.ADMIN)


def _credential(scope: Connection) -> bytes:
    """What a client says to be known by.

    Raises:
        AuthenticationError: nothing, or more than one thing.
    """
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) == 1:
        kind, _, credential = given[0].partition(b" ")
        if kind.lower() == b"bearer" and credential.strip():
            return bytes(credential.strip())
    if not given and dialect_of(scope) is Dialect.ANTHROPIC:
        given = [value for name, value in scope["headers"] if name == API_KEY_HEADER]
        if len(given) == 1 and given[0]:
            return bytes(given[0])
    message = "Say who you are with the header `Authorization: Bearer KEY`, once."
    raise AuthenticationError(message, was_given=bool(given))


def _refuse(scope: Connection, status_code: int, message: str, challenge: str) -> JSONResponse:
    body = error_body(scope, status_code, message)
    return JSONResponse(body, status_code, {"WWW-Authenticate": challenge})
