"""Leases of batches, line numbers and answers: what several processes and dead ones may do."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.identity import ANONYMOUS, Caller
from src.errors import JobNotFoundError, JobStateError, StorageDownError, StorageFullError
from src.jobs.access import Jobs, JobsAccess
from src.jobs.batches import LEASE_SECONDS, NewBatch
from src.jobs.clock import Clock
from src.jobs.database import Database
from src.jobs.files import Quota
from src.jobs.records import Batch, Counts, Owner, Purpose, Status, StoredFile, TokenUsage
from src.jobs.worklist import Answer, OpenLine, Worklist

ANYBODY = Owner(ANONYMOUS, "127.0.0.1")
COUNTS = Counts(3, 1, 1)


class SetClock(Clock):
    """A clock that a test sets."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds


@asynccontextmanager
async def processes(folder: Path, *times: float) -> AsyncIterator[list[Jobs]]:
    """Opens a folder as several processes with clocks of their own."""
    accesses = [JobsAccess(folder / "batches", Quota(10**6, 10**6)) for _ in times]
    opened = []
    for access, seconds in zip(accesses, times, strict=True):
        jobs = await access.open()
        clock = SetClock(seconds)
        jobs.files._clock = jobs.batches._clock = clock
        opened.append(replace(jobs, clock=clock))
    yield opened
    for access in accesses:
        await access.close()


async def create_batch(jobs: Jobs, owner: Owner = ANYBODY, model: str = "m") -> Batch:
    upload = await jobs.files.begin_upload(owner.id)
    await upload.write(b"{}\n")
    file = await jobs.files.finish_upload(upload, owner.id, Purpose.BATCH, "a", None)
    upload.close()
    new = NewBatch("/v1/completions", file.id, "24h", 86400, None, None, model)
    return await jobs.batches.create(owner, new)


def run(scenario: Callable[[Path], object]) -> Callable[[Path], None]:
    """Makes a test of a coroutine."""

    def test(tmp_path: Path) -> None:
        asyncio.run(scenario(tmp_path))

    return test


@run
async def test_a_batch_has_one_runner(tmp_path):
    async with processes(tmp_path, 100, 100) as (first, second):
        batch = await create_batch(first)
        lease = await second.batches.claim("m")
        assert lease.batch == batch
        assert await first.batches.claim("m") is None
        assert await first.batches.claim("other") is None


@run
async def test_a_lease_that_ends_is_taken_over_and_its_runner_can_change_nothing(tmp_path):
    async with processes(tmp_path, 100, 100 + LEASE_SECONDS + 1) as (slow, fast):
        batch = await create_batch(slow)
        old = await slow.batches.claim("m")
        new = await fast.batches.claim("m")
        assert (new.batch.id, new.token != old.token) == (batch.id, True)
        assert await slow.batches.renew(old, COUNTS) is None
        assert not await slow.batches.enter(old, Status.IN_PROGRESS, COUNTS, "m")
        assert not await slow.batches.finish(old, Status.COMPLETED, keep, refuse_files)
        await slow.batches.release(old, COUNTS)
        assert await fast.batches.renew(new, COUNTS) is Status.VALIDATING
        assert await fast.batches.finish(new, Status.COMPLETED, keep, list)
        ended = await slow.batches.get("", batch.id)
        assert (ended.status, ended.counts) == (Status.COMPLETED, COUNTS)


def keep(batch: Batch) -> Batch:
    return batch


def refuse_files() -> list[StoredFile]:
    raise AssertionError("no file of a lost lease may be placed")


@run
async def test_a_lease_of_a_clock_far_ahead_does_not_hold_for_long(tmp_path):
    async with processes(tmp_path, 10**6, 100) as (ahead, behind):
        await create_batch(behind)
        assert await ahead.batches.claim("m") is not None
        assert await behind.batches.claim("m") is not None


@run
async def test_times_of_a_batch_do_not_run_backwards(tmp_path):
    async with processes(tmp_path, 1000, 10) as (first, second):
        batch = await create_batch(first)
        lease = await second.batches.claim("m")
        await second.batches.enter(lease, Status.IN_PROGRESS, COUNTS, "m")
        assert (await second.batches.get("", batch.id)).times == {"in_progress": 1000}


@run
async def test_owners_with_few_running_batches_come_first(tmp_path):
    owners = [Owner(Caller(id=name)) for name in ("a", "b")]
    async with processes(tmp_path, 100) as (jobs,):
        for owner in (owners[0], owners[0], owners[1]):
            await create_batch(jobs, owner)
        claimed = [await jobs.batches.claim("m") for _ in range(3)]
        assert [lease.owner.id for lease in claimed] == ["a", "b", "a"]


@run
async def test_a_postponed_batch_is_claimed_later(tmp_path):
    async with processes(tmp_path, 100) as (jobs,):
        await create_batch(jobs)
        await jobs.batches.release(await jobs.batches.claim("m"), COUNTS, postpone_seconds=10)
        assert await jobs.batches.claim("m") is None
        jobs.clock.seconds += 11
        assert await jobs.batches.claim("m") is not None


@run
async def test_a_cancelled_batch_does_not_go_on(tmp_path):
    async with processes(tmp_path, 100) as (jobs,):
        batch = await create_batch(jobs)
        lease = await jobs.batches.claim("m")
        cancelled = await jobs.batches.cancel("", batch.id)
        assert cancelled.status is Status.CANCELLING
        assert await jobs.batches.cancel("", batch.id) == cancelled
        assert not await jobs.batches.enter(lease, Status.IN_PROGRESS, COUNTS, "m")
        assert await jobs.batches.renew(lease, COUNTS) is Status.CANCELLING
        await jobs.batches.finish(lease, Status.CANCELLED, keep, list)
        with pytest.raises(JobStateError):
            await jobs.batches.cancel("", batch.id)


@run
async def test_an_owner_is_restored_from_the_database(tmp_path):
    owner = Owner(Caller("id", "name", frozenset({"generate"}), weight=3), "1.2.3.4")
    async with processes(tmp_path, 100) as (jobs,):
        await create_batch(jobs, owner)
        assert (await jobs.batches.claim("m")).owner == owner


@run
async def test_expired_files_are_removed_and_others_stay(tmp_path):
    async with processes(tmp_path, 100) as (jobs,):
        batch = await create_batch(jobs)
        jobs.clock.seconds += 31 * 86400
        with pytest.raises(JobNotFoundError):
            await jobs.files.get("", batch.input_file_id)
        await jobs.files.sweep()
        assert list((jobs.folder.path / "files").iterdir()) == []
        assert jobs.folder.batch_input(batch.id).exists()


@run
async def test_the_rest_of_a_killed_process_is_removed(tmp_path):
    async with processes(tmp_path, 100) as (jobs,):
        batch = await create_batch(jobs)
        (jobs.folder.path / "files" / "file-lost").write_text("x")
        (jobs.folder.path / "batches" / "batch_lost").mkdir()
        await jobs.batches.tidy()
        assert [path.name for path in (jobs.folder.path / "files").iterdir()] == [
            batch.input_file_id
        ]
        assert [path.name for path in (jobs.folder.path / "batches").iterdir()] == [batch.id]


@run
async def test_a_line_is_answered_once(tmp_path):
    worklist = Worklist(tmp_path / "lines.sqlite")
    lines = [OpenLine(number, 0, 1, str(number)) for number in (1, 2, 5)]
    assert worklist.add(lines) == []
    assert worklist.add([OpenLine(6, 0, 1, "1")]) == [OpenLine(6, 0, 1, "1")]
    assert await worklist.open_after(1) == lines[1:]
    assert await worklist.save(2, Answer(b"first", False, TokenUsage(1, 0, 2)))
    assert not await worklist.save(2, Answer(b"second", True, TokenUsage(5, 0, 5)))
    assert await worklist.count() == Counts(3, 1, 0)
    assert await worklist.sum_usage() == TokenUsage(1, 0, 2)
    assert [answer for _, answer, _ in worklist.read()] == [None, b"first", None]
    await worklist.close()


@run
async def test_a_full_disk_leaves_the_database_as_it_was(tmp_path):
    database = Database(tmp_path / "a.sqlite", "CREATE TABLE IF NOT EXISTS texts (text TEXT);")

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO texts VALUES ('kept?')")
        connection.execute("INSERT INTO texts VALUES (?)", ["x" * 10**6])

    await database.run(lambda connection: None)
    database._connection.execute("PRAGMA max_page_count = 10")
    with pytest.raises(StorageFullError):
        await database.run(fill)
    rows = await database.run(
        lambda connection: connection.execute("SELECT * FROM texts").fetchall()
    )
    assert rows == []
    await database.close()


@run
async def test_a_damaged_database_is_an_error_of_the_storage(tmp_path):
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageDownError):
        await JobsAccess(tmp_path / "batches", Quota(1, 1)).open()


def test_a_clock_does_not_follow_the_wall_clock(monkeypatch):
    clock = Clock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: before + 10**6)
    assert clock.now() < before + 60
