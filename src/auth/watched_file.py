"""A file that is read again when it changes, while the service runs."""

import asyncio
import logging
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from src.errors import KeysError, SettingsError

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
Stamp = tuple[int, int, int]
T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a file holds.

    Args:
        path: of the file.
        setting: its name among the settings.
        read: makes of the file's text what `value` is; raises KeysError.

    Raises:
        SettingsError: the file cannot be read at the start.
    """

    def __init__(self, path: Path, setting: str, read: Callable[[str], T]) -> None:
        self._path = path
        self._setting = setting
        self._read = read
        self._stamp: Stamp | None = None
        self._problem = ""
        try:
            self.value = self._load()
        except (OSError, UnicodeDecodeError, KeysError) as error:
            raise SettingsError(f"{setting}={path} cannot be used: {error}.") from None

    async def watch(self) -> None:
        """Reads the file again whenever it has changed, until it is cancelled.

        While it is missing or broken what it held last stays: a slip of the pen locks nobody out.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        try:
            if self._stamp_of_now() == self._stamp:
                return
            self.value = self._load()
        except (OSError, UnicodeDecodeError, KeysError) as error:
            self._tell(f"cannot be used, and what it held stays: {error}")
        else:
            self._problem = ""
            logger.info("%s: the file has changed and was read again", self._setting)

    def _tell(self, problem: str) -> None:
        """Once, not every second."""
        if problem != self._problem:
            logger.error("%s: the file %s", self._setting, problem)
        self._problem = problem

    def _load(self) -> T:
        self._stamp = self._stamp_of_now()
        return self._read(self._path.read_text("utf-8"))

    def _stamp_of_now(self) -> Stamp:
        status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could take for ever
            raise KeysError("it is no file")
        return status.st_mtime_ns, status.st_size, status.st_ino
