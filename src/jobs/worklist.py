"""Lines of one batch with their answers: a database file that lives as long as the batch runs.

A line is answered at most once here, however many runners have worked on it.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from src.jobs.database import Database, storage_errors
from src.jobs.records import Counts, TokenUsage

PAGE_LINES = 256

SCHEMA = """
CREATE TABLE IF NOT EXISTS lines (
    number INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    length INTEGER NOT NULL,
    custom_id TEXT NOT NULL UNIQUE,
    answer BLOB,
    is_error INTEGER,
    input_tokens INTEGER,
    cached_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER
);
CREATE INDEX IF NOT EXISTS open_lines ON lines (number) WHERE answer IS NULL;
"""
COUNT = """
SELECT count(*), count(*) FILTER (WHERE is_error = 0), count(*) FILTER (WHERE is_error = 1)
FROM lines
"""
SUMS = ", ".join(
    f"coalesce(sum({name}_tokens), 0)" for name in ("input", "cached", "output", "reasoning")
)


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A line without an answer."""

    number: int
    offset: int
    length: int
    custom_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a line.

    Args:
        text: JSON for the output file, or for the error file.
        is_error: it belongs into the error file.
        usage: tokens of the line.
    """

    text: bytes
    is_error: bool
    usage: TokenUsage


class Worklist:
    """Lines of one batch.

    Args:
        path: of the database file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, SCHEMA, synchronous="NORMAL")

    async def clear(self) -> None:
        """Removes all lines."""
        await self._database.run(lambda connection: connection.execute("DELETE FROM lines"))

    def add(self, lines: Iterable[OpenLine]) -> list[OpenLine]:
        """Adds lines, in the calling thread; returns those with the custom_id of another line."""

        def add(connection: sqlite3.Connection) -> list[OpenLine]:
            statement = (
                "INSERT OR IGNORE INTO lines (number, position, length, custom_id)"
                " VALUES (?, ?, ?, ?)"
            )
            duplicates = []
            for line in lines:
                values = [line.number, line.offset, line.length, line.custom_id]
                if connection.execute(statement, values).rowcount == 0:
                    duplicates.append(line)
            return duplicates

        return self._database.transact(add)

    async def count(self) -> Counts:
        """Counts the lines by state."""

        def count(connection: sqlite3.Connection) -> Counts:
            return Counts(*connection.execute(COUNT).fetchone())

        return await self._database.run(count)

    async def open_after(self, number: int) -> list[OpenLine]:
        """Returns the first open lines after a line."""

        def select(connection: sqlite3.Connection) -> list[OpenLine]:
            rows = connection.execute(
                "SELECT number, position, length, custom_id FROM lines"
                " WHERE answer IS NULL AND number > ? ORDER BY number LIMIT ?",
                [number, PAGE_LINES],
            )
            return [OpenLine(*row) for row in rows]

        return await self._database.run(select)

    async def save(self, number: int, answer: Answer) -> bool:
        """Stores a line's answer; returns False if it has one already."""
        usage = answer.usage

        def save(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE lines SET answer = ?, is_error = ?, input_tokens = ?, cached_tokens = ?,"
                " output_tokens = ?, reasoning_tokens = ? WHERE number = ? AND answer IS NULL",
                [
                    answer.text,
                    answer.is_error,
                    usage.input_tokens,
                    usage.cached_tokens,
                    usage.output_tokens,
                    usage.reasoning_tokens,
                    number,
                ],
            )
            return changed.rowcount == 1

        return await self._database.run(save)

    async def sum_usage(self) -> TokenUsage:
        """Returns the tokens of all answers."""

        def select(connection: sqlite3.Connection) -> TokenUsage:
            query = f"SELECT {SUMS} FROM lines"  # noqa: S608 # nosec B608
            return TokenUsage(*connection.execute(query).fetchone())

        return await self._database.run(select)

    def read(self) -> Iterator[tuple[OpenLine, bytes | None, bool]]:
        """Yields all lines in order, each with its answer and whether that is an error."""
        with storage_errors():
            connection = sqlite3.connect(self._path)
            try:
                query = (
                    "SELECT number, position, length, custom_id, answer, is_error FROM lines"
                    " ORDER BY number"
                )
                for *line, answer, is_error in connection.execute(query):
                    yield OpenLine(*line), answer, bool(is_error)
            finally:
                connection.close()

    async def close(self) -> None:
        """Closes the database."""
        await self._database.close()
