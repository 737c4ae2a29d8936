"""Lines of output and error files, as OpenAI writes them."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from src.jobs.records import Owner, TokenUsage
from src.jobs.worklist import Answer

EXPIRED = (
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)
CANCELLED = ("batch_cancelled", "This request was not executed, as the batch was cancelled.")
FAILED = ("batch_failed", "This request was not executed, as the batch failed.")
REQUEST_ID = "batch_req_"


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """Answer of a route to the request of a line.

    Args:
        status_code: HTTP's.
        request_id: of the request, as in logs.
        body: JSON.
        retry_after: seconds after which the request may be sent again; None if it should not.
    """

    status_code: int
    request_id: str
    body: bytes
    retry_after: float | None = None


class Route(Protocol):
    """Answers requests as the service's routes do."""

    async def __call__(
        self, owner: Owner, path: str, body: bytes, request_id: str, priority: str
    ) -> RouteAnswer:
        """Answers a request of a batch.

        Args:
            owner: its permissions hold, and the tokens are billed to it.
            path: of the route.
            body: JSON.
            request_id: for logs and the usage log.
            priority: class of the request in the engine's queue.
        """


class Observer(Protocol):
    """Counts the work on batches."""

    def backlog_measured(
        self, num_batches: int, num_lines: int, num_running: int, oldest_seconds: float
    ) -> None:
        """Gets figures of all unfinished batches, and this process's running lines."""

    def line_ended(self, *, is_error: bool) -> None:
        """Counts a line with an answer."""


def new_request_id() -> str:
    """Returns an id for a line's request."""
    return REQUEST_ID + secrets.token_hex(12)


def route_line(custom_id: str, answer: RouteAnswer) -> Answer:
    """Returns the line for a route's answer; every status but 200 belongs into the error file."""
    body = json.loads(answer.body)
    head = {"id": answer.request_id, "custom_id": custom_id}
    response = {
        "status_code": answer.status_code,
        "request_id": answer.request_id,
        "body": body,
    }
    text = json.dumps(head | {"response": response, "error": None})
    is_error = answer.status_code != 200
    return Answer(text.encode(), is_error, TokenUsage() if is_error else _usage(body))


def unanswered_line(custom_id: str, code: str, message: str) -> bytes:
    """Returns the line of a request that no route answered."""
    values = {
        "id": new_request_id(),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return json.dumps(values).encode()


def _usage(body: Mapping[str, Any]) -> TokenUsage:
    """Returns the usage of an answer, in the words of any of OpenAI's routes."""
    usage = body.get("usage") or {}
    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    written = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return TokenUsage(
        usage.get("prompt_tokens", usage.get("input_tokens", 0)),
        read.get("cached_tokens", 0),
        usage.get("completion_tokens", usage.get("output_tokens", 0)),
        written.get("reasoning_tokens", 0),
    )
