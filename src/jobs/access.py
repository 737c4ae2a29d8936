"""Access to BATCH_DIR, which is created with the first file or background response.

A server that stores no files needs no folder, so it also starts where it could not create one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.jobs import batches, files
from src.jobs.background import store
from src.jobs.background.store import BackgroundStore, ResponseLimits
from src.jobs.batches import BatchStore
from src.jobs.clock import Clock
from src.jobs.database import Database, storage_errors
from src.jobs.files import FileStore, Quota
from src.jobs.folder import JobsFolder


@dataclass(frozen=True, slots=True)
class Jobs:
    """Stores of files and batches.

    Args:
        folder: BATCH_DIR.
        files: of all owners.
        batches: of all owners.
        background: responses of all owners.
        clock: for deadlines.
    """

    folder: JobsFolder
    files: FileStore
    batches: BatchStore
    background: BackgroundStore
    clock: Clock


class JobsAccess:
    """Opens the stores once, when they are needed.

    Args:
        path: BATCH_DIR.
        quota: bounds of files.
        responses: bounds of background responses.
    """

    def __init__(self, path: Path, quota: Quota, responses: ResponseLimits | None = None) -> None:
        self._folder = JobsFolder(path.absolute())
        self._quota, self._responses = quota, responses or ResponseLimits()
        self._database: Database | None = None
        self._jobs: Jobs | None = None
        self._lock = asyncio.Lock()
        self.wake: Callable[[], None] = lambda: None
        """Tells the runner of this process, if there is one, of a new batch."""

    @property
    def exists(self) -> bool:
        """This process or another one has stored files."""
        return self._jobs is not None or self._folder.database.exists()

    async def open(self) -> Jobs:
        """Returns the stores.

        Raises:
            StorageFullError, StorageDownError: the folder cannot be created or used.
        """
        async with self._lock:
            if self._jobs is None:
                self._jobs = await self._open()
            return self._jobs

    async def _open(self) -> Jobs:
        with storage_errors():
            await asyncio.to_thread(self._folder.create)
        database = Database(self._folder.database, files.SCHEMA + batches.SCHEMA + store.SCHEMA)
        await database.run(lambda connection: None)
        self._database = database
        clock = Clock()
        return Jobs(
            self._folder,
            FileStore(self._folder, database, clock, self._quota),
            BatchStore(self._folder, database, clock),
            BackgroundStore(database, clock, self._responses),
            clock,
        )

    async def close(self) -> None:
        """Closes the database."""
        if self._database is not None:
            await self._database.close()
            self._database = self._jobs = None
