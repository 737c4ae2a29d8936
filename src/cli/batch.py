"""`batch`: the requests of a file, answered without a server."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.cli.terminal import notes
from src.errors import CommandError

if TYPE_CHECKING:
    from src.offline import Totals


def batch(
    source: Annotated[
        Path,
        typer.Option("--input", "-i", metavar="FILE", help="A JSON request in each line."),
    ],
    result: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Answers; a second run goes on where it ends."
        ),
    ],
    errors: Annotated[
        Path | None,
        typer.Option(
            "--errors",
            "-e",
            metavar="FILE",
            help="Failed lines with their numbers; by default OUTPUT with `.errors` in its name.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="MODEL_NAME, as for `serve`.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Lines at the same time.")
    ] = 32,
    restart: Annotated[
        bool, typer.Option("--restart", help="Answer all lines again; overwrites OUTPUT.")
    ] = False,
) -> None:
    """Answer the requests of a file, in the format of OpenAI's batches, without a server.

    A line that fails does not stop the others; the status is then 1. Settings come from the
    environment and `.env`.
    """
    errors = errors or result.with_suffix(f".errors{result.suffix}")
    _check_paths(source, result, errors)
    if restart:
        result.unlink(missing_ok=True)
    if model is not None:
        os.environ["MODEL_NAME"] = model
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    totals = _answer(source, result, errors, concurrency)
    if totals.num_failed:
        raise CommandError(f"{totals.num_failed} lines failed; {errors} has them.")
    errors.unlink(missing_ok=True)


def _answer(source: Path, result: Path, errors: Path, concurrency: int) -> "Totals":
    # Imported late: it loads the libraries of the server and of the model.
    from src.offline import OfflineBatch, answer_file  # noqa: PLC0415

    files = OfflineBatch(source, result, errors, concurrency)
    with _Bar() as bar:
        totals = asyncio.run(answer_file(files, bar))
    notes().print(bar.summary(totals))
    return totals


def _check_paths(source: Path, result: Path, errors: Path) -> None:
    """Raises CommandError if a file would overwrite another one, or is none."""
    if not source.is_file():
        raise CommandError(f"{source}: there is no such file.")
    if len({path.resolve() for path in (source, result, errors)}) < 3:
        raise CommandError("Input, output and errors must be three files.")
    for path in (result, errors):
        if not path.parent.is_dir():
            raise CommandError(f"{path.parent}: there is no such folder.")


class _Bar:
    """Progress bar with tokens per second and the time left; nothing without a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=notes(),
            transient=True,
            disable=not notes().is_terminal,
        )
        self._task = self._progress.add_task("loading the model", total=None, rate="")
        self._started = time.monotonic()

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, num_lines: int) -> None:
        self._started = time.monotonic()
        self._progress.update(self._task, description="lines", total=num_lines)

    def move(self, totals: "Totals") -> None:
        completed = totals.num_answered + totals.num_failed + totals.num_before
        self._progress.update(
            self._task, completed=completed, rate=f"{self._rate(totals):.0f} tokens/s"
        )

    def _rate(self, totals: "Totals") -> float:
        return totals.num_tokens / max(time.monotonic() - self._started, 1e-9)

    def summary(self, totals: "Totals") -> str:
        """Returns the sentence at the end."""
        seconds = time.monotonic() - self._started
        before = f", {totals.num_before} before" if totals.num_before else ""
        return (
            f"{totals.num_answered} lines answered{before}, {totals.num_failed} failed;"
            f" {totals.num_tokens} tokens in {seconds:.1f} s, {self._rate(totals):.0f} tokens/s"
        )
