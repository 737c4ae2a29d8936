"""Keys in Redis, and headers, of a server and its workers, besides Celery's own queue.

chunk/ID    hash of a chunk's open lines: request id to the request's body
token/ID    line token of a chunk; the server renews it
lease/ID    the worker that works on a chunk; it renews this key
answers/ID  list of answers for one server

A worker removes a line and adds its answer in one transaction, so that each line is in one of the
two. The server renews the chunk too: chunks of a dead server end by themselves, and so does work on
them. All keys may be lost with Redis: the server hands out open lines again.
"""

import json
from dataclasses import asdict, dataclass
from typing import Self

PREFIX = "llm-inference/batches/"
QUEUE = "llm-inference-batches"
"""Celery's queue, a list in Redis."""

TASK = "llm_inference.answer_chunk"
TOKEN_HEADER = "X-Batch-Token"  # noqa: S105 # nosec B105 - a header's name
ACCEPTED_HEADER = "X-Batch-Token-Accepted"  # nosec B105
"""Header of answers to requests with a valid token; errors of a proxy do not have it."""

CHUNK_SECONDS = 15
"""Lifetime of a chunk that its server does not renew."""

LEASE_SECONDS = 6
RENEW_SECONDS = 2.0
ANSWERS_SECONDS = 600
"""Lifetime of answers that no server reads."""

MAX_WAIT_SECONDS = 60.0
"""Longest pause before a request is sent again."""


def chunk_key(chunk_id: str) -> str:
    return f"{PREFIX}chunk/{chunk_id}"


def token_key(chunk_id: str) -> str:
    return f"{PREFIX}token/{chunk_id}"


def lease_key(chunk_id: str) -> str:
    return f"{PREFIX}lease/{chunk_id}"


def answers_key(server_id: str) -> str:
    return f"{PREFIX}answers/{server_id}"


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """Answer to a line, from a worker to the server.

    Args:
        request_id: of the line.
        status_code: HTTP's.
        body: JSON.
        retry_after: seconds after which the line may be sent again; None if it should not.
    """

    request_id: str
    status_code: int
    body: str
    retry_after: float | None

    def dump(self) -> str:
        """Returns the answer as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Reads what `dump` returned."""
        return cls(**json.loads(text))
