"""Records of background responses: the request, the answer as it is now, and the lease.

A process leases the responses that it works on, all with one token, and renews them together. When
its leases end, another process works on them again; so does a restarted one.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from src.errors import JobNotFoundError, RateLimitedError
from src.jobs.clock import Clock
from src.jobs.database import Database
from src.jobs.records import Owner

LEASE_SECONDS = 6.0
RETRY_SECONDS = 60
"""Retry-After of a request beyond the limit; no earlier end can be foreseen."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    creator TEXT NOT NULL,
    served_model TEXT NOT NULL,
    status TEXT NOT NULL,
    request BLOB,
    answer BLOB NOT NULL,
    expires_at REAL,
    token TEXT,
    leased_until REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS responses_by_owner ON responses (owner, position);
CREATE INDEX IF NOT EXISTS open_responses ON responses (served_model) WHERE expires_at IS NULL;
"""

# The oldest response without a worker; of owners with few running ones first. A lease that ends
# later than any can is one of a process with another clock, so it counts as ended.
CLAIM = """
SELECT * FROM responses AS candidate
WHERE expires_at IS NULL AND served_model = :model AND leased_until NOT BETWEEN :now AND :end
ORDER BY (
    SELECT count(*) FROM responses WHERE expires_at IS NULL AND owner = candidate.owner
        AND leased_until BETWEEN :now AND :end
), position
LIMIT 1
"""


class ResponseStatus(StrEnum):
    """State of a background response."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """Bounds of stored responses.

    Args:
        max_responses: of an owner.
        ttl_seconds: lifetime of a response after its end.
    """

    max_responses: int = 1000
    ttl_seconds: int = 86400


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A request for a background response, with valid fields.

    Args:
        id: of the response.
        served_model: first name of the served model.
        request: JSON body for the route that answers it.
        answer: JSON values of the queued response.
    """

    id: str
    served_model: str
    request: bytes
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LeasedResponse:
    """A response that this process works on.

    Args:
        id: of the response.
        owner: creator; tokens are billed to it.
        request: JSON body.
        answer: JSON values of the response in progress.
    """

    id: str
    owner: Owner
    request: bytes
    answer: dict[str, Any]


class BackgroundStore:
    """Background responses of all owners.

    Args:
        database: keeps the records.
        clock: for leases and expiry.
        limits: bounds of what is stored.
    """

    def __init__(self, database: Database, clock: Clock, limits: ResponseLimits) -> None:
        self._database, self._clock = database, clock
        self._max_responses, self._ttl_seconds = limits.max_responses, limits.ttl_seconds

    async def create(self, owner: Owner, new: NewResponse) -> None:
        """Stores a queued response; the owner's oldest one that has ended makes room for it.

        Raises:
            RateLimitedError: the maximum number of the owner's responses has not ended.
        """

        def store(connection: sqlite3.Connection) -> None:
            self._make_room(connection, owner.id)
            connection.execute(
                "INSERT INTO responses (id, owner, creator, served_model, status, request, answer)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    new.id,
                    owner.id,
                    json.dumps(owner.dump()),
                    new.served_model,
                    ResponseStatus.QUEUED,
                    new.request,
                    _dump(new.answer),
                ],
            )

        await self._database.run(store)

    def _make_room(self, connection: sqlite3.Connection, owner: str) -> None:
        (count,) = connection.execute(
            "SELECT count(*) FROM responses WHERE owner = ?", [owner]
        ).fetchone()
        excess = count - self._max_responses + 1
        if excess <= 0:
            return
        deleted = connection.execute(
            "DELETE FROM responses WHERE id IN (SELECT id FROM responses"
            " WHERE owner = ? AND expires_at IS NOT NULL ORDER BY position LIMIT ?)",
            [owner, excess],
        )
        if deleted.rowcount < excess:
            raise RateLimitedError("background", self._max_responses, None, 0, RETRY_SECONDS)

    async def get(self, owner: str, response_id: str) -> bytes:
        """Returns a response as JSON; raises JobNotFoundError if the owner has no such one."""

        def find(connection: sqlite3.Connection) -> bytes:
            return bytes(self._find(connection, owner, response_id)["answer"])

        return await self._database.run(find)

    async def cancel(self, owner: str, response_id: str) -> bytes:
        """Ends a response, and returns it as JSON; one that has ended stays as it is.

        Raises:
            JobNotFoundError: the owner has no such response.
        """

        def cancel(connection: sqlite3.Connection) -> bytes:
            row = self._find(connection, owner, response_id)
            if row["expires_at"] is not None:
                return bytes(row["answer"])
            values = json.loads(row["answer"]) | {"status": ResponseStatus.CANCELLED}
            self._end(connection, response_id, ResponseStatus.CANCELLED, values)
            return _dump(values)

        return await self._database.run(cancel)

    async def delete(self, owner: str, response_id: str) -> None:
        """Deletes a response, and ends it; raises JobNotFoundError if there is no such one."""

        def delete(connection: sqlite3.Connection) -> None:
            self._find(connection, owner, response_id)
            connection.execute("DELETE FROM responses WHERE id = ?", [response_id])

        await self._database.run(delete)

    async def claim(self, served_model: str, token: str) -> LeasedResponse | None:
        """Leases a response of a model; returns None if each has a process."""

        def claim(connection: sqlite3.Connection) -> LeasedResponse | None:
            now = self._clock.now()
            times = {"now": now, "end": now + LEASE_SECONDS}
            row = connection.execute(CLAIM, {"model": served_model} | times).fetchone()
            if row is None:
                return None
            values = json.loads(row["answer"]) | {"status": ResponseStatus.IN_PROGRESS}
            connection.execute(
                "UPDATE responses SET token = ?, leased_until = ?, status = ?, answer = ?"
                " WHERE id = ?",
                [token, times["end"], values["status"], _dump(values), row["id"]],
            )
            owner = Owner.load(json.loads(row["creator"]))
            return LeasedResponse(row["id"], owner, bytes(row["request"]), values)

        return await self._database.run(claim)

    async def renew(self, response_ids: Iterable[str], token: str) -> set[str]:
        """Renews leases; returns the ids of those that are not lost."""
        leased_until = self._clock.now() + LEASE_SECONDS

        def renew(connection: sqlite3.Connection) -> set[str]:
            statement = "UPDATE responses SET leased_until = ? WHERE id = ? AND token = ?"
            return {
                response_id
                for response_id in response_ids
                if connection.execute(statement, [leased_until, response_id, token]).rowcount
            }

        return await self._database.run(renew)

    async def finish(
        self, response_id: str, token: str, status: ResponseStatus, values: dict[str, Any]
    ) -> bool:
        """Ends a leased response; returns False if the lease is lost, or it was cancelled."""

        def finish(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT id FROM responses WHERE id = ? AND token = ?", [response_id, token]
            ).fetchone()
            if row is not None:
                self._end(connection, response_id, status, values)
            return row is not None

        return await self._database.run(finish)

    async def release(self, response_ids: Iterable[str], token: str) -> None:
        """Queues leased responses again."""

        def release(connection: sqlite3.Connection) -> None:
            for response_id in response_ids:
                row = connection.execute(
                    "SELECT answer FROM responses WHERE id = ? AND token = ?", [response_id, token]
                ).fetchone()
                if row is None:
                    continue
                values = json.loads(row["answer"]) | {"status": ResponseStatus.QUEUED}
                connection.execute(
                    "UPDATE responses SET token = NULL, leased_until = 0, status = ?, answer = ?"
                    " WHERE id = ?",
                    [values["status"], _dump(values), response_id],
                )

        await self._database.run(release)

    async def count_open(self) -> int:
        """Returns the number of responses of all owners that have not ended."""

        def count(connection: sqlite3.Connection) -> int:
            query = "SELECT count(*) FROM responses WHERE expires_at IS NULL"
            return int(connection.execute(query).fetchone()[0])

        return await self._database.run(count)

    async def sweep(self) -> None:
        """Deletes expired responses."""
        now = self._clock.now()
        await self._database.run(
            lambda connection: connection.execute(
                "DELETE FROM responses WHERE expires_at <= ?", [now]
            )
        )

    def _find(self, connection: sqlite3.Connection, owner: str, response_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM responses WHERE id = ? AND owner = ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            [response_id, owner, self._clock.now()],
        ).fetchone()
        if row is None:
            raise JobNotFoundError("responses", response_id)
        return row

    def _end(
        self,
        connection: sqlite3.Connection,
        response_id: str,
        status: ResponseStatus,
        values: dict[str, Any],
    ) -> None:
        """Stores the last state, and removes the request."""
        connection.execute(
            "UPDATE responses SET status = ?, answer = ?, request = NULL, token = NULL,"
            " leased_until = 0, expires_at = ? WHERE id = ?",
            [status, _dump(values), self._clock.now() + self._ttl_seconds, response_id],
        )


def _dump(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()
