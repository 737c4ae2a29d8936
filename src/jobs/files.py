"""Stored files: uploads, content, quotas, expiry. Each file is visible to its owner alone."""

import asyncio
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from src.errors import JobNotFoundError, UploadTooLargeError
from src.jobs.clock import Clock
from src.jobs.database import Database, storage_errors
from src.jobs.folder import JobsFolder
from src.jobs.records import Purpose, StoredFile

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 30 * 24 * 3600
"""Lifetime of files of batches, as at OpenAI; other files stay until they are deleted."""

STALE_SECONDS = 24 * 3600
"""Age at which the rest of an upload that never ended is removed."""

COLUMNS = "id, purpose, filename, num_bytes, created_at, expires_at"
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX IF NOT EXISTS files_by_owner ON files (owner, position);
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list.

    Args:
        limit: maximum number of items.
        after: id of the last item of the page before.
        is_ascending: oldest first; else newest first.
    """

    limit: int
    after: str | None = None
    is_ascending: bool = False

    def select(
        self,
        connection: sqlite3.Connection,
        table: str,
        columns: str,
        where: str,
        values: list[object],
    ) -> list[sqlite3.Row]:
        """Returns the rows of the page, and one more if there is another page.

        Raises:
            JobNotFoundError: there is no item `after`.
        """
        if self.after is not None:
            query = f"SELECT position FROM {table} WHERE id = ? AND owner = ?"  # noqa: S608 # nosec B608
            row = connection.execute(query, [self.after, values[0]]).fetchone()
            if row is None:
                raise JobNotFoundError(table, self.after, "after")
            where += f" AND position {'>' if self.is_ascending else '<'} ?"
            values = [*values, row["position"]]
        order = "ASC" if self.is_ascending else "DESC"
        query = (
            f"SELECT {columns} FROM {table} WHERE {where}"  # noqa: S608 # nosec B608
            f" ORDER BY position {order} LIMIT ?"
        )
        return connection.execute(query, [*values, self.limit + 1]).fetchall()


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds of stored files.

    Args:
        max_file_bytes: of one file.
        max_owner_bytes: of all files of an owner.
    """

    max_file_bytes: int
    max_owner_bytes: int


class Upload:
    """A file that is arriving. Close it in the end: an upload without `finish` leaves nothing.

    Args:
        file_id: id that the file gets.
        path: of the content, until it is whole.
        max_bytes: maximum size.
        too_large: creates the error for a larger file.
    """

    def __init__(
        self, file_id: str, path: Path, max_bytes: int, too_large: Callable[[], Exception]
    ) -> None:
        self.file_id, self.path = file_id, path
        self.num_bytes = 0
        self._max_bytes, self._too_large = max_bytes, too_large
        self._file: BinaryIO | None = None

    async def write(self, data: bytes) -> None:
        """Appends to the file.

        Raises:
            UploadTooLargeError: the file exceeds a quota.
            StorageFullError, StorageDownError: the disk refused it.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._max_bytes:
            raise self._too_large()
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        with storage_errors():
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(data)

    def close(self) -> None:
        """Closes the file and removes it, unless it was moved to its place."""
        if self._file is not None:
            with suppress(OSError):  # buffered bytes of a full disk
                self._file.close()
            self._file = None
        with suppress(OSError):
            self.path.unlink()

    def seal(self) -> None:
        """Writes the content to the disk."""
        with storage_errors():
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.flush()
            os.fsync(self._file.fileno())


class FileStore:
    """Files of all owners.

    Args:
        folder: keeps the content.
        database: keeps the records.
        clock: for times of creation and expiry.
        quota: bounds of uploads; outputs of batches count, but are never refused.
    """

    def __init__(self, folder: JobsFolder, database: Database, clock: Clock, quota: Quota) -> None:
        self._folder, self._database, self._clock, self._quota = folder, database, clock, quota

    async def begin_upload(self, owner: str) -> Upload:
        """Returns an upload, bounded by what is left of the owner's quota."""
        left = self._quota.max_owner_bytes - await self._database.run(
            lambda connection: _used_bytes(connection, owner)
        )
        file_id = f"file-{secrets.token_hex(12)}"
        max_bytes = min(self._quota.max_file_bytes, max(left, 0))
        return Upload(file_id, self._folder.upload(file_id), max_bytes, self._too_large)

    def _too_large(self) -> UploadTooLargeError:
        return UploadTooLargeError(self._quota.max_file_bytes, self._quota.max_owner_bytes)

    async def finish_upload(
        self, upload: Upload, owner: str, purpose: Purpose, filename: str, seconds: int | None
    ) -> StoredFile:
        """Stores an upload as a file.

        Args:
            upload: whole.
            owner: of the file.
            purpose: of the file.
            filename: the client's name of it.
            seconds: lifetime; None is the purpose's default.

        Raises:
            UploadTooLargeError: other uploads have used up the quota meanwhile.
            StorageFullError, StorageDownError: the disk refused it.
        """
        await asyncio.to_thread(upload.seal)
        file = self._record(upload.file_id, purpose, filename, upload.num_bytes, seconds)

        def store(connection: sqlite3.Connection) -> None:
            if _used_bytes(connection, owner) + file.num_bytes > self._quota.max_owner_bytes:
                raise self._too_large()
            upload.path.replace(self._folder.file(file.id))
            insert_file(connection, owner, file)

        await self._database.run(store)
        return file

    def _record(
        self, file_id: str, purpose: Purpose, filename: str, num_bytes: int, seconds: int | None
    ) -> StoredFile:
        now = int(self._clock.now())
        if seconds is None and purpose is not Purpose.FINE_TUNE:
            seconds = DEFAULT_SECONDS
        expires_at = None if seconds is None else now + seconds
        return StoredFile(file_id, purpose, filename, num_bytes, now, expires_at)

    def place_output(
        self, file_id: str, path: Path, filename: str, seconds: int | None
    ) -> StoredFile:
        """Moves a batch's output to its place; the caller stores the returned record."""
        num_bytes = path.stat().st_size
        path.replace(self._folder.file(file_id))
        return self._record(file_id, Purpose.BATCH_OUTPUT, filename, num_bytes, seconds)

    async def get(self, owner: str, file_id: str) -> StoredFile:
        """Returns a file's record.

        Raises:
            JobNotFoundError: the owner has no such file.
        """
        return await self._database.run(
            lambda connection: find_file(connection, owner, file_id, self._clock.now())
        )

    async def open(self, owner: str, file_id: str) -> tuple[StoredFile, BinaryIO]:
        """Returns a file's record and its open content.

        Raises:
            JobNotFoundError: the owner has no such file, or its content is lost.
        """
        file = await self.get(owner, file_id)
        try:
            return file, await asyncio.to_thread(self._folder.file(file_id).open, "rb")
        except FileNotFoundError:
            raise JobNotFoundError("files", file_id) from None

    async def find_page(
        self, owner: str, page: Page, purpose: str | None = None
    ) -> tuple[list[StoredFile], bool]:
        """Returns the files of a page, and whether there are more."""
        where, values = (
            "owner = ? AND (expires_at IS NULL OR expires_at > ?)",
            [owner, self._clock.now()],
        )
        if purpose is not None:
            where, values = where + " AND purpose = ?", [*values, purpose]
        rows = await self._database.run(
            lambda connection: page.select(connection, "files", COLUMNS, where, list(values))
        )
        return [StoredFile(*row) for row in rows[: page.limit]], len(rows) > page.limit

    async def delete(self, owner: str, file_id: str) -> None:
        """Deletes a file; batches that read it keep its content.

        Raises:
            JobNotFoundError: the owner has no such file.
        """

        def delete(connection: sqlite3.Connection) -> None:
            find_file(connection, owner, file_id, self._clock.now())
            connection.execute("DELETE FROM files WHERE id = ?", [file_id])

        await self._database.run(delete)
        await asyncio.to_thread(self._folder.drop_file, file_id)

    async def sweep(self) -> None:
        """Deletes expired files, and rests of uploads that never ended."""

        def delete(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "DELETE FROM files WHERE expires_at <= ? RETURNING id", [self._clock.now()]
            )
            return [row["id"] for row in rows.fetchall()]

        for file_id in await self._database.run(delete):
            logger.info("a file has expired", extra={"file": file_id})
            await asyncio.to_thread(self._folder.drop_file, file_id)
        await asyncio.to_thread(self._drop_stale_uploads)

    def _drop_stale_uploads(self) -> None:
        for path in self._folder.uploads.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < self._clock.now() - STALE_SECONDS:
                    path.unlink()


def find_file(connection: sqlite3.Connection, owner: str, file_id: str, now: float) -> StoredFile:
    """Returns a file's record; raises JobNotFoundError if the owner has no such file."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM files"  # noqa: S608 # nosec B608
        " WHERE id = ? AND owner = ? AND (expires_at IS NULL OR expires_at > ?)",
        [file_id, owner, now],
    ).fetchone()
    if row is None:
        raise JobNotFoundError("files", file_id)
    return StoredFile(*row)


def insert_file(connection: sqlite3.Connection, owner: str, file: StoredFile) -> None:
    """Stores a file's record; replaces one with the same id."""
    values = [
        file.id,
        file.purpose,
        file.filename,
        file.num_bytes,
        file.created_at,
        file.expires_at,
    ]
    connection.execute(
        f"INSERT OR REPLACE INTO files (owner, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 # nosec B608
        [owner, *values],
    )


def _used_bytes(connection: sqlite3.Connection, owner: str) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(num_bytes), 0) AS used FROM files WHERE owner = ?", [owner]
    ).fetchone()
    return int(row["used"])
