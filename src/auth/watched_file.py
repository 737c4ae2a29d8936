"""File that is read again when it changes, while the service runs."""

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
    """Parsed content of a file, as `value`.

    Args:
        path: of the file.
        setting: name of the setting that holds the path.
        parse: turns the file's text into the value; raises KeysError.

    Raises:
        SettingsError: the file cannot be read or parsed at the start.
    """

    def __init__(self, path: Path, setting: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._setting = setting
        self._parse = parse
        self._stamp: Stamp | None = None
        self._problem = ""
        try:
            self.value = self._load()
        except (OSError, UnicodeDecodeError, KeysError) as error:
            raise SettingsError(f"{setting}={path} cannot be used: {error}.") from None

    async def watch(self) -> None:
        """Reads the file again whenever it has changed, until cancelled.

        While the file is missing or broken the last value stays, so that a typing error does not
        invalidate all keys.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self._check)

    def _check(self) -> None:
        try:
            if self._read_stamp() == self._stamp:
                return
            self.value = self._load()
        except (OSError, UnicodeDecodeError, KeysError) as error:
            self._log_problem(f"cannot be used, its last content stays in force: {error}")
        else:
            self._problem = ""
            logger.info("%s: the file has changed and was read again", self._setting)

    def _log_problem(self, problem: str) -> None:
        """Logs a problem once, not every second."""
        if problem != self._problem:
            logger.error("%s: the file %s", self._setting, problem)
        self._problem = problem

    def _load(self) -> T:
        self._stamp = self._read_stamp()
        return self._parse(self._path.read_text("utf-8"))

    def _read_stamp(self) -> Stamp:
        status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe may block for ever
            raise KeysError("it is not a regular file")
        return status.st_mtime_ns, status.st_size, status.st_ino
