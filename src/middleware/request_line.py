"""Reads request lines as clients mean them: HEAD as GET without a body, `//v1` as `/v1`."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLASHES = re.compile("/{2,}")


class RequestLineMiddleware:
    """Answers HEAD wherever GET is answered, and joins slashes that a base URL has doubled.

    It must be outside of all that reads the path or the method, authorization first.

    Args:
        app: the app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if "//" in scope["path"]:
                scope = {**scope, "path": SLASHES.sub("/", scope["path"])}
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
