"""`usage`: sums of USAGE_LOG by day and key."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table

from src.cli.options import AsJson
from src.cli.terminal import notes, output

ANONYMOUS = "-"
"""Key and name of clients without a key; both are empty in the log."""


@dataclass(slots=True)
class Sum:
    """Requests and tokens of one key on one day (UTC)."""

    day: str
    key: str
    name: str
    requests: int = 0
    sequences: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def add(self, sequences: int, prompt_tokens: int, generated_tokens: int) -> None:
        """Adds a request."""
        self.requests += 1
        self.sequences += sequences
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += generated_tokens


COUNTS = ("sequences", "prompt_tokens", "generated_tokens")
"""Counts of a line of the log."""


def usage(
    file: Annotated[
        typer.FileText,
        typer.Argument(
            envvar="USAGE_LOG", help="The log, or - for standard input.", encoding="utf-8"
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Sum a usage log by day and key: requests and tokens.

    Days are those of UTC. A line that a full disk has cut is reported and left out.
    """
    sums, num_broken = sum_up(file)
    if num_broken:
        notes().out(f"lines that are cut or foreign, and left out: {num_broken}")
    if as_json:
        output().print_json(data=[asdict(one) for one in sums], ensure_ascii=False)
    else:
        output().print(_table(sums))


def sum_up(lines: Iterable[str]) -> tuple[list[Sum], int]:
    """Returns the sums, by day and then by name, and the number of lines that cannot be read."""
    sums: dict[tuple[str, str], Sum] = {}
    num_broken = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            day, key, name = entry["time"][:10], entry["key"], entry["name"]
            counts = [int(entry[count]) for count in COUNTS]
        except (ValueError, KeyError, TypeError):
            num_broken += 1
            continue
        sums.setdefault((day, key), Sum(day, key, name)).add(*counts)
    return sorted(sums.values(), key=lambda one: (one.day, one.name)), num_broken


def _table(sums: list[Sum]) -> Table:
    columns = ("requests", *COUNTS)
    table = Table("day", "key", "name", show_footer=True)
    table.columns[0].footer = "all"
    for column in columns:
        total = sum(getattr(one, column) for one in sums)
        table.add_column(column.replace("_", " "), footer=f"{total:,}", justify="right")
    for one in sums:
        owner = (one.day, one.key or ANONYMOUS, one.name or ANONYMOUS)
        table.add_row(*owner, *(f"{getattr(one, column):,}" for column in columns))
    return table
