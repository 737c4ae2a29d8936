"""Output files of a batch, written beside its lines and then moved to their places."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from src.jobs.answers import unanswered_line
from src.jobs.database import storage_errors
from src.jobs.folder import sync_file
from src.jobs.records import Counts
from src.jobs.worklist import Worklist


@dataclass(frozen=True, slots=True)
class Draft:
    """An output file that is not in its place yet."""

    file_id: str
    path: Path
    filename: str


class Drafts:
    """Answers and errors of a batch.

    The ids of the files follow from the batch's, so a runner that is killed between moving a file
    and recording it leaves nothing behind: the next one writes the same files.

    Args:
        folder: of the batch.
        batch_id: of the batch.
        token: of the lease; another runner may write drafts at the same time.
    """

    def __init__(self, folder: Path, batch_id: str, token: str) -> None:
        self._output = Draft(
            _file_id(batch_id, "output"), folder / f"output-{token}", f"{batch_id}_output.jsonl"
        )
        self._errors = Draft(
            _file_id(batch_id, "error"), folder / f"error-{token}", f"{batch_id}_error.jsonl"
        )

    def write(self, worklist: Worklist, reason: tuple[str, str]) -> Counts:
        """Writes both files in the order of the lines; blocks.

        Args:
            worklist: lines with their answers.
            reason: code and message of lines without an answer.

        Raises:
            StorageFullError, StorageDownError: the disk refused it.
        """
        completed = failed = 0
        with (
            storage_errors(),
            self._output.path.open("wb") as output,
            self._errors.path.open("wb") as errors,
        ):
            for line, answer, has_failed in worklist.read():
                is_error = has_failed or answer is None
                text = unanswered_line(line.custom_id, *reason) if answer is None else answer
                failed, completed = failed + is_error, completed + (not is_error)
                _write_line(errors if is_error else output, text)
        with storage_errors():
            sync_file(self._output.path)
            sync_file(self._errors.path)
        return Counts(completed + failed, completed, failed)

    def of(self, counts: Counts) -> Iterator[Draft | None]:
        """Yields the draft of the output and that of the errors; None for an empty file."""
        yield self._output if counts.completed else None
        yield self._errors if counts.failed else None


def _write_line(file: BinaryIO, text: bytes) -> None:
    file.write(text)
    file.write(b"\n")


def _file_id(batch_id: str, kind: str) -> str:
    return "file-" + sha256(f"{batch_id}/{kind}".encode()).hexdigest()[:24]
