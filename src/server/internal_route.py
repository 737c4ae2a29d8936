"""Requests that the process sends to its own app, such as for a batch's line.

They pass through the same middleware and routes as those of clients, so that limits, usage, logs,
metrics and errors are the same. No connection is opened.
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from src.core.priority import current_priority
from src.engine.request import Priority
from src.jobs.answers import RouteAnswer
from src.jobs.records import Owner
from src.middleware.error_body import INTERNAL_CALLER

RETRIED = (429, 503, 504)
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Answer:
    """Collects the messages of an answer."""

    status_code: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytearray = field(default_factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.headers = Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


class _Body:
    """Sends a request's body, and then waits for a disconnect that never comes."""

    def __init__(self, body: bytes) -> None:
        self._message: Message | None = {"type": "http.request", "body": body}

    async def receive(self) -> Message:
        if self._message is None:
            await asyncio.Future()
        message, self._message = self._message, None
        assert message is not None
        return message


class InternalRoute:
    """Sends requests to an app in the name of a batch's owner.

    Args:
        app: the whole app, with its middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(
        self, owner: Owner, path: str, body: bytes, request_id: str, priority: str
    ) -> RouteAnswer:
        answer = _Answer()
        token = current_priority.set(Priority[priority.upper()])
        try:
            scope = _scope(owner, path, body, request_id)
            await self._app(scope, _Body(body).receive, answer.send)
        finally:
            current_priority.reset(token)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # RequestLogMiddleware has answered 503 instead, for a client that waits.
            raise asyncio.CancelledError
        retry_after = None
        if answer.status_code in RETRIED:
            retry_after = float(answer.headers.get("Retry-After", RETRY_SECONDS))
        return RouteAnswer(answer.status_code, request_id, bytes(answer.body), retry_after)


def _scope(owner: Owner, path: str, body: bytes, request_id: str) -> MutableMapping[str, Any]:
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "host": "localhost",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (owner.address, 0) if owner.address else None,
        "server": None,
        INTERNAL_CALLER: owner.caller,
    }
