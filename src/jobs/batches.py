"""Records of batches, and the leases by which several processes share them.

A runner works on a batch while it holds its lease, and renews it. Another one takes the batch over
once the lease has ended, and so does a restarted process. Each lease has a token of its own: a
runner that was suspended for longer than its lease can change nothing any more.
"""

import json
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

from src.errors import JobNotFoundError, JobStateError
from src.jobs.clock import Clock
from src.jobs.database import Database
from src.jobs.files import Page, find_file, insert_file
from src.jobs.folder import JobsFolder
from src.jobs.records import Batch, Counts, Owner, Purpose, Status, StoredFile

LEASE_SECONDS = 6.0
RENEW_SECONDS = 2.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    creator TEXT NOT NULL,
    served_model TEXT NOT NULL,
    is_final INTEGER NOT NULL DEFAULT 0,
    record TEXT NOT NULL,
    token TEXT,
    leased_until REAL NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS batches_by_owner ON batches (owner, position);
CREATE INDEX IF NOT EXISTS unfinished_batches ON batches (served_model) WHERE is_final = 0;
"""

# The oldest batch without a runner; of owners with few running batches first. A lease that ends
# later than any can is one of a process with another clock, so it counts as ended.
CLAIM = """
SELECT * FROM batches AS candidate
WHERE is_final = 0 AND served_model = :model AND not_before NOT BETWEEN :now AND :latest
    AND leased_until NOT BETWEEN :now AND :end
ORDER BY (
    SELECT count(*) FROM batches WHERE is_final = 0 AND owner = candidate.owner
        AND leased_until BETWEEN :now AND :end
), position
LIMIT 1
"""
MAX_POSTPONE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A batch that this process works on.

    Args:
        batch: as it was when the lease began.
        owner: creator; its tokens are billed to it.
        token: proves the lease.
    """

    batch: Batch
    owner: Owner
    token: str


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A request for a batch, with valid fields.

    Args:
        endpoint: path of the route that answers its lines.
        input_file_id: of its lines.
        completion_window: as the client wrote it.
        window_seconds: the same in seconds.
        metadata: the client's.
        output_seconds: lifetime of its output files; None is the default.
        served_model: first name of the served model.
    """

    endpoint: str
    input_file_id: str
    completion_window: str
    window_seconds: int
    metadata: dict[str, str] | None
    output_seconds: int | None
    served_model: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unfinished batches of all owners.

    Args:
        num_batches: that have not ended.
        num_lines: that are not answered, of batches that were validated.
        oldest_created_at: of the oldest; None without any.
    """

    num_batches: int
    num_lines: int
    oldest_created_at: int | None


class BatchStore:
    """Batches of all owners.

    Args:
        folder: keeps the input of batches.
        database: keeps the records.
        clock: for times and leases.
    """

    def __init__(self, folder: JobsFolder, database: Database, clock: Clock) -> None:
        self._folder, self._database, self._clock = folder, database, clock

    async def create(self, owner: Owner, new: NewBatch) -> Batch:
        """Stores a batch, which a runner begins to validate soon.

        Raises:
            JobNotFoundError: the owner has no such file.
            JobStateError: the file's purpose is another one.
        """
        now = int(self._clock.now())
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=new.endpoint,
            input_file_id=new.input_file_id,
            completion_window=new.completion_window,
            created_at=now,
            expires_at=now + new.window_seconds,
            served_model=new.served_model,
            metadata=new.metadata,
            output_seconds=new.output_seconds,
        )

        def store(connection: sqlite3.Connection) -> None:
            file = find_file(connection, owner.id, new.input_file_id, now)
            if file.purpose != Purpose.BATCH:
                raise JobStateError(
                    f"The file {file.id} has the purpose {file.purpose}; a batch needs a file with"
                    " the purpose batch."
                )
            try:
                self._folder.keep_input(batch.id, file.id)
            except FileNotFoundError:
                raise JobNotFoundError("files", file.id) from None
            connection.execute(
                "INSERT INTO batches (id, owner, creator, served_model, record)"
                " VALUES (?, ?, ?, ?, ?)",
                [batch.id, owner.id, json.dumps(owner.dump()), new.served_model, batch.dump()],
            )

        await self._database.run(store)
        return batch

    async def get(self, owner: str, batch_id: str) -> Batch:
        """Returns a batch; raises JobNotFoundError if the owner has no such batch."""
        return await self._database.run(lambda connection: _find(connection, owner, batch_id))

    async def find_page(self, owner: str, page: Page) -> tuple[list[Batch], bool]:
        """Returns the batches of a page, and whether there are more."""
        rows = await self._database.run(
            lambda connection: page.select(connection, "batches", "record", "owner = ?", [owner])
        )
        return [Batch.load(row["record"]) for row in rows[: page.limit]], len(rows) > page.limit

    async def cancel(self, owner: str, batch_id: str) -> Batch:
        """Begins to cancel a batch; its runner ends it soon.

        Raises:
            JobNotFoundError: the owner has no such batch.
            JobStateError: the batch has ended, or all its lines are answered.
        """

        def cancel(connection: sqlite3.Connection) -> Batch:
            batch = _find(connection, owner, batch_id)
            if batch.status is Status.CANCELLING:
                return batch
            if batch.status.is_final or batch.status is Status.FINALIZING:
                raise JobStateError(f"A batch with the status {batch.status} cannot be cancelled.")
            batch = self._enter(batch, Status.CANCELLING)
            _store(connection, batch)
            return batch

        return await self._database.run(cancel)

    async def claim(self, served_model: str) -> Lease | None:
        """Leases an unfinished batch of a model; returns None if each has a runner."""
        token = secrets.token_hex(8)

        def claim(connection: sqlite3.Connection) -> Lease | None:
            now = self._clock.now()
            times = {"now": now, "end": now + LEASE_SECONDS, "latest": now + MAX_POSTPONE_SECONDS}
            row = connection.execute(CLAIM, {"model": served_model} | times).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE batches SET token = ?, leased_until = ?, not_before = 0 WHERE id = ?",
                [token, now + LEASE_SECONDS, row["id"]],
            )
            owner = Owner.load(json.loads(row["creator"]))
            return Lease(Batch.load(row["record"]), owner, token)

        return await self._database.run(claim)

    async def renew(self, lease: Lease, counts: Counts) -> Status | None:
        """Renews a lease and stores how far its batch is; returns its state, None if it is lost."""

        def change(batch: Batch) -> Batch:
            return replace(batch, counts=counts)

        batch = await self._change(lease, change, self._clock.now() + LEASE_SECONDS)
        return None if batch is None else batch.status

    async def enter(self, lease: Lease, status: Status, counts: Counts, model: str | None) -> bool:
        """Changes the state of a leased batch; False: it was cancelled, or the lease is lost."""

        def change(batch: Batch) -> Batch:
            if batch.status is Status.CANCELLING:
                return batch
            return replace(self._enter(batch, status), counts=counts, model=model)

        batch = await self._change(lease, change, self._clock.now() + LEASE_SECONDS)
        return batch is not None and batch.status is status

    async def finish(
        self,
        lease: Lease,
        status: Status,
        outcome: Callable[[Batch], Batch],
        place: Callable[[], list[StoredFile]],
    ) -> bool:
        """Ends a leased batch: its files and its final state appear together.

        Returns False if the lease is lost; nothing has changed then.

        Args:
            lease: of the batch.
            status: final state.
            outcome: sets results of the batch.
            place: moves the files to their places and returns their records.
        """

        def finish(connection: sqlite3.Connection) -> bool:
            row = _leased(connection, lease)
            if row is None:
                return False
            batch = self._enter(outcome(Batch.load(row["record"])), status)
            for file in place():
                insert_file(connection, row["owner"], file)
            _store(connection, batch)
            connection.execute(
                "UPDATE batches SET token = NULL, leased_until = 0, is_final = 1 WHERE id = ?",
                [batch.id],
            )
            return True

        return await self._database.run(finish)

    async def release(self, lease: Lease, counts: Counts, postpone_seconds: float = 0) -> None:
        """Gives an unfinished batch to the next runner, which may claim it after a while."""
        not_before = self._clock.now() + postpone_seconds if postpone_seconds else 0

        def release(connection: sqlite3.Connection) -> None:
            row = _leased(connection, lease)
            if row is not None:
                _store(connection, replace(Batch.load(row["record"]), counts=counts))
                connection.execute(
                    "UPDATE batches SET token = NULL, leased_until = 0, not_before = ?"
                    " WHERE id = ?",
                    [not_before, lease.batch.id],
                )

        await self._database.run(release)

    async def tidy(self) -> None:
        """Removes what killed processes left: ended batches' folders, content without record."""

        def tidy(connection: sqlite3.Connection) -> None:
            # In a transaction, as no file and no batch can be created meanwhile.
            open_batches = connection.execute("SELECT id FROM batches WHERE is_final = 0")
            self._folder.drop_batches_but({row["id"] for row in open_batches})
            files = connection.execute("SELECT id FROM files")
            self._folder.drop_files_but({row["id"] for row in files})

        await self._database.run(tidy)

    async def measure(self) -> Backlog:
        """Returns what is left to do."""

        def measure(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            return connection.execute("SELECT record FROM batches WHERE is_final = 0").fetchall()

        batches = [Batch.load(row["record"]) for row in await self._database.run(measure)]
        counts = [batch.counts for batch in batches]
        num_lines = sum(count.total - count.completed - count.failed for count in counts)
        oldest = min((batch.created_at for batch in batches), default=None)
        return Backlog(len(batches), num_lines, oldest)

    async def _change(
        self, lease: Lease, change: Callable[[Batch], Batch], leased_until: float
    ) -> Batch | None:
        """Changes a leased batch; returns None if the lease is lost."""

        def work(connection: sqlite3.Connection) -> Batch | None:
            row = _leased(connection, lease)
            if row is None:
                return None
            batch = change(Batch.load(row["record"]))
            _store(connection, batch)
            connection.execute(
                "UPDATE batches SET leased_until = ? WHERE id = ?", [leased_until, batch.id]
            )
            return batch

        return await self._database.run(work)

    def _enter(self, batch: Batch, status: Status) -> Batch:
        """Returns the batch in a new state; times never run backwards."""
        now = max(int(self._clock.now()), batch.created_at, *batch.times.values())
        return replace(batch, status=status, times={**batch.times, status.value: now})


def _find(connection: sqlite3.Connection, owner: str, batch_id: str) -> Batch:
    row = connection.execute(
        "SELECT record FROM batches WHERE id = ? AND owner = ?", [batch_id, owner]
    ).fetchone()
    if row is None:
        raise JobNotFoundError("batches", batch_id)
    return Batch.load(row["record"])


def _leased(connection: sqlite3.Connection, lease: Lease) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM batches WHERE id = ? AND token = ?", [lease.batch.id, lease.token]
    ).fetchone()
    return row


def _store(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.execute("UPDATE batches SET record = ? WHERE id = ?", [batch.dump(), batch.id])
