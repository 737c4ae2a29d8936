"""SQLite in write-ahead-log mode, on a thread of its own.

The standard library's module is enough: a client for asyncio would run the same module on such a
thread. WAL needs memory shared between processes, so all of them must run on one machine.
"""

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from src.errors import StorageDownError, StorageFullError

T = TypeVar("T")

BUSY_SECONDS = 10
"""Longest wait for a transaction of another process."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raises errors of the disk as the service's own.

    Raises:
        StorageFullError: the disk is full.
        StorageDownError: anything else that the disk or the database refused.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StorageFullError from error
        raise StorageDownError from error
    except sqlite3.DatabaseError as error:
        raise StorageDownError from error
    except OSError as error:
        if error.errno in FULL:
            raise StorageFullError from error
        raise StorageDownError from error


class Database:
    """A database file.

    Args:
        path: of the file; its folder exists.
        schema: statements that create missing tables.
        synchronous: `FULL` survives a power failure, `NORMAL` a killed process.
    """

    def __init__(self, path: Path, schema: str, synchronous: str = "FULL") -> None:
        self._path, self._schema, self._synchronous = path, schema, synchronous
        self._thread = ThreadPoolExecutor(1, "jobs-database")
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in a transaction, which holds the database's only write lock.

        Raises:
            StorageFullError, StorageDownError: as `storage_errors`.
        """
        return await asyncio.wrap_future(self._thread.submit(self.transact, work))

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does the work of `run`; call it on one thread alone."""
        with storage_errors():
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.executescript(self._schema)
            self._connection = connection
        return self._connection

    async def close(self) -> None:
        """Closes the connection."""
        await asyncio.wrap_future(self._thread.submit(self._close))
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
