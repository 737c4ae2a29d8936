"""The folder of files and batches (BATCH_DIR).

jobs.sqlite         records of files and batches
files/ID            content of a file
uploads/ID          content of a file that is still arriving
batches/ID/         a batch that has not ended: its input, and its lines with their answers
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class JobsFolder:
    """Paths below BATCH_DIR."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "jobs.sqlite"

    @property
    def uploads(self) -> Path:
        return self.path / "uploads"

    def file(self, file_id: str) -> Path:
        return self.path / "files" / file_id

    def upload(self, file_id: str) -> Path:
        return self.uploads / file_id

    def batch(self, batch_id: str) -> Path:
        return self.path / "batches" / batch_id

    def batch_input(self, batch_id: str) -> Path:
        return self.batch(batch_id) / "input.jsonl"

    def batch_lines(self, batch_id: str) -> Path:
        return self.batch(batch_id) / "lines.sqlite"

    def create(self) -> None:
        """Creates the folder and those inside; only this user can read them."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("files", "uploads", "batches"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def keep_input(self, batch_id: str, file_id: str) -> None:
        """Keeps a file's content for a batch, also if the file is deleted meanwhile."""
        self.batch(batch_id).mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(self.file(file_id), self.batch_input(batch_id))
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(self.file(file_id), self.batch_input(batch_id))

    def drop_file(self, file_id: str) -> None:
        with suppress(FileNotFoundError):
            self.file(file_id).unlink()

    def drop_batch(self, batch_id: str) -> None:
        shutil.rmtree(self.batch(batch_id), ignore_errors=True)

    def drop_batches_but(self, batch_ids: set[str]) -> None:
        """Removes the folders of all other batches."""
        for path in (self.path / "batches").iterdir():
            if path.name not in batch_ids:
                self.drop_batch(path.name)

    def drop_files_but(self, file_ids: set[str]) -> None:
        """Removes the content of all other files."""
        for path in (self.path / "files").iterdir():
            if path.name not in file_ids:
                self.drop_file(path.name)


def sync_file(path: Path) -> None:
    """Writes a file's content to the disk, so that it survives a power failure."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
