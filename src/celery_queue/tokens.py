"""Line tokens: a worker's credential to send lines of a batch in the name of their owner.

A line token is a JSON Web Token (RFC 7519, HS256) that the batch's server signs with
BATCH_TOKEN_SECRET. It names the owner, holds for one path and ends soon. A server with the same
secret treats such a request as one that it made itself: the owner's present scopes and token limit
hold, and a key that was revoked meanwhile is refused.
"""

import time
from typing import Any

import jwt
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.celery_queue.keys import ACCEPTED_HEADER, TOKEN_HEADER
from src.core.priority import current_priority
from src.engine.request import Priority
from src.jobs.records import Owner
from src.middleware.error_body import INTERNAL_CALLER, error_body

ALGORITHM = "HS256"
ISSUER = "llm-inference"
AUDIENCE = "llm-inference/batch-lines"
LEEWAY_SECONDS = 10
"""Tolerated difference between the clocks of servers."""

MIN_SECRET_LENGTH = 32
WRONG = "The batch token is not valid: it is expired, or signed with another BATCH_TOKEN_SECRET."


class LineTokens:
    """Signs and verifies line tokens.

    Args:
        secret: BATCH_TOKEN_SECRET.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, owner: Owner, path: str, priority: str, seconds: float) -> str:
        """Returns a token for requests to one path.

        Args:
            owner: of the batch.
            path: of the route that answers its lines.
            priority: class of the requests in the engine's queue.
            seconds: lifetime.
        """
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + int(seconds),
            "path": path,
            "priority": priority,
            "owner": owner.dump(),
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    def verify(self, token: str, path: str) -> tuple[Owner, str]:
        """Returns the owner and the priority class of a request.

        Raises:
            PermissionError: the token is not valid for this path.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise PermissionError from error
        if claims["path"] != path:
            raise PermissionError
        return Owner.load(claims["owner"]), claims["priority"]


class LineTokenMiddleware:
    """Turns requests with a line token into internal requests of the batch's owner.

    Args:
        app: the app inside.
        tokens: verifies them.
    """

    def __init__(self, app: ASGIApp, tokens: LineTokens) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _token_of(scope)
        if token is None:
            await self._app(scope, receive, send)
            return
        try:
            owner, priority = self._tokens.verify(token, scope["path"])
        except PermissionError:
            answer = JSONResponse(error_body(scope, 401, WRONG), 401)
            await answer(scope, receive, send)
            return

        async def send_accepted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[ACCEPTED_HEADER] = "true"
            await send(message)

        scope[INTERNAL_CALLER] = owner.caller
        scope["client"] = (owner.address, 0) if owner.address else None
        reset = current_priority.set(Priority[priority.upper()])
        try:
            await self._app(scope, receive, send_accepted)
        finally:
            current_priority.reset(reset)


def _token_of(scope: Scope) -> str | None:
    """Returns the line token of an HTTP request with one."""
    if scope["type"] != "http":
        return None
    name = TOKEN_HEADER.lower().encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
