"""Batches without a server: the lines of a file, answered by the app in this process.

The answers are those of the routes, in the format of OpenAI's output files. The output file is also
the record of what is done: a second run answers the lines that are not in it.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from fastapi import FastAPI

from src.config import load_settings
from src.core.identity import ANONYMOUS
from src.errors import CommandError
from src.jobs.answers import RouteAnswer, new_request_id, route_line
from src.jobs.lines import (
    Line,
    LineError,
    LineRequest,
    LineRules,
    check_line,
    dump_body,
    parse_line,
    read_lines,
)
from src.jobs.records import Owner
from src.main import create_app
from src.server.internal_route import InternalRoute
from src.server.service import service_of

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
OWNER = Owner(ANONYMOUS)
PRIORITY = "batch"
LOAD_POLL_SECONDS = 0.05
SERVER_SETTINGS: dict[str, object] = {
    "auth": "none",
    "api_keys_file": None,
    "api_keys": None,
    "jwt_key_file": None,
    "jwt_issuer": None,
    "jwt_audience": None,
    "rate_limit_tokens": None,
    "rate_limit_storage": "memory",
    "batch_dir": Path(os.devnull) / "none",  # a server's batches are left alone
}
"""Settings of a server for many clients, which do not matter here."""


@dataclass(frozen=True, slots=True)
class OfflineBatch:
    """Files of a batch.

    Args:
        source: lines to answer.
        output: answers; lines that it holds already are left out.
        errors: lines that failed; written anew.
        concurrency: lines that run at the same time.
    """

    source: Path
    output: Path
    errors: Path
    concurrency: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Lines and tokens of a run."""

    num_answered: int = 0
    num_failed: int = 0
    num_before: int = 0
    num_tokens: int = 0


class Watcher(Protocol):
    """Shows how far a batch is."""

    def begin(self, num_lines: int) -> None:
        """The model is loaded, and the file has this many lines."""

    def move(self, totals: Totals) -> None:
        """A line has ended."""


async def answer_file(batch: OfflineBatch, watcher: Watcher) -> Totals:
    """Answers all lines of a file that have no answer yet.

    Raises:
        CommandError: a file cannot be used, or the model cannot be loaded.
    """
    done = _read_answered(batch.output)
    settings = load_settings().model_copy(update=SERVER_SETTINGS)
    num_lines = sum(1 for _ in read_lines(batch.source, settings.max_body_bytes))
    app = create_app(settings)
    async with _loaded(app):
        with batch.output.open("ab") as output, batch.errors.open("wb") as errors:
            run = _Run(app, batch, done, output, errors, watcher)
            watcher.begin(num_lines)
            return await run.answer_all()


@asynccontextmanager
async def _loaded(app: FastAPI) -> AsyncIterator[None]:
    """Runs the app's lifespan, and waits for its model."""
    service = service_of(app)
    async with app.router.lifespan_context(app):
        while not service.is_loaded:  # noqa: ASYNC110 - a model that cannot load ends the process
            await asyncio.sleep(LOAD_POLL_SECONDS)
        yield


def _read_answered(path: Path) -> set[str]:
    """Returns the custom_ids in an output file; cuts a last line that was not written whole.

    Raises:
        CommandError: the file is no output of a batch.
    """
    done: set[str] = set()
    if not path.exists():
        return done
    with path.open("rb+") as file:
        end = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                file.truncate(end)
                break
            end += len(line)
            try:
                done.add(json.loads(line)["custom_id"])
            except (ValueError, TypeError, KeyError):
                raise CommandError(
                    f"{path}: line {number} is no answer of a batch. Give another --output, or"
                    " --restart to overwrite the file."
                ) from None
    return done


class _Run:
    """A run over one file."""

    def __init__(
        self,
        app: FastAPI,
        batch: OfflineBatch,
        done: set[str],
        output: BinaryIO,
        errors: BinaryIO,
        watcher: Watcher,
    ) -> None:
        service = service_of(app)
        self._route = InternalRoute(app)
        self._batch, self._watcher = batch, watcher
        self._output, self._errors = output, errors
        self._done, self._seen = done, set[str]()
        self._totals = Totals()
        self._max_bytes = service.settings.max_body_bytes
        self._names = service.engine.names

    async def answer_all(self) -> Totals:
        """Answers the lines, in the order of the file as far as places are free."""
        lines = read_lines(self._batch.source, self._max_bytes)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._batch.concurrency):
                group.create_task(self._work(lines))
        return self._totals

    async def _work(self, lines: Iterator[Line]) -> None:
        for line in lines:
            try:
                endpoint, request = self._check(line)
            except LineError as error:
                self._write_error(line, error)
                continue
            if request.custom_id in self._done:
                self._count(num_before=1)
                continue
            answer = await self._send(endpoint, request)
            self._write_answer(line, request, answer)

    def _check(self, line: Line) -> tuple[str, LineRequest]:
        """Returns a line's route and request; raises LineError if it is invalid."""
        endpoint = parse_line(line.data).get("url") if line.data is not None else None
        if line.data is not None and endpoint not in ENDPOINTS:
            raise LineError("url_mismatch", f"The url must be of {', '.join(ENDPOINTS)}.", "url")
        rules = LineRules(str(endpoint), self._max_bytes, lambda name: name in self._names)
        request = check_line(line, rules)
        if request.custom_id in self._seen:
            message = "The custom_id of this line is that of an earlier line."
            raise LineError("duplicate_custom_id", message, "custom_id")
        self._seen.add(request.custom_id)
        return str(endpoint), request

    async def _send(self, endpoint: str, request: LineRequest) -> RouteAnswer:
        body = dump_body(request.body)
        while True:
            answer = await self._route(OWNER, endpoint, body, new_request_id(), PRIORITY)
            if answer.retry_after is None or answer.status_code == 504:
                return answer
            await asyncio.sleep(answer.retry_after)

    def _write_answer(self, line: Line, request: LineRequest, answer: RouteAnswer) -> None:
        text = route_line(request.custom_id, answer)
        if text.is_error:
            values = json.loads(text.text)
            self._write_failure({"line": line.number, **values})
            return
        _append(self._output, text.text)
        usage = text.usage
        self._count(num_answered=1, num_tokens=usage.input_tokens + usage.output_tokens)

    def _write_error(self, line: Line, error: LineError) -> None:
        fields = {"code": error.code, "message": str(error), "param": error.param}
        self._write_failure({"line": line.number, "custom_id": None, "error": fields})

    def _write_failure(self, values: dict[str, object]) -> None:
        _append(self._errors, json.dumps(values).encode())
        self._count(num_failed=1)

    def _count(self, **amounts: int) -> None:
        sums = {name: getattr(self._totals, name) + amount for name, amount in amounts.items()}
        self._totals = replace(self._totals, **sums)
        self._watcher.move(self._totals)


def _append(file: BinaryIO, text: bytes) -> None:
    file.write(text + b"\n")
    file.flush()  # a run that is killed then loses no answer
