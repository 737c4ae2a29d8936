"""Compilation in real processes: cache, refusals, slots, and limits of size, time and memory."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from src.engine.structured_output import compile_scheduler
from src.engine.structured_output.compile_pool import GrammarCompiler, GrammarLimits
from src.engine.structured_output.compile_scheduler import MAX_PAUSED_PER_TENANT, NUM_QUICK
from src.engine.structured_output.fork_server import ForkServer
from src.engine.structured_output.grammar_process import GrammarProcess
from src.engine.structured_output.refusals import REFUSAL_SECONDS
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError, InvalidSchemaError, OverloadedError
from tests.support.grammars import allowed_by
from tests.support.tiny_models import create_tokenizer

TOKENIZER = create_tokenizer().backend_tokenizer
SLOW = '{"type": "integer", "multipleOf": 10000019}'
"""A schema that llguidance compiles for minutes with growing memory."""


class Pool:
    """A compiler that counts its forks and records the outcomes that it reports."""

    def __init__(self, **limits: object) -> None:
        limit = GrammarLimits(**limits)
        self.server = ForkServer(
            TOKENIZER.to_str(), TOKENIZER.get_vocab_size(), limit.max_memory_bytes
        )
        self.compiler = GrammarCompiler(self.server, limit, self)
        self.asked_for: list[str] = []
        self.num_forks = 0
        real = self.server.fork

        def fork() -> GrammarProcess:
            self.num_forks += 1
            return real()

        self.server.fork = fork

    def grammar_asked_for(self, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.asked_for.append(outcome)

    async def compile(self, text: str, kind: str = "regex", tenant: str = "") -> object:
        return await self.compiler.compile(GrammarSource(kind, text, ("here",)), tenant)

    def slow(self, number: int, tenant: str = "") -> asyncio.Task:
        text = SLOW.replace("10000019", str(10000019 + number))
        return asyncio.create_task(self.compile(text, "json_schema", tenant))


@asynccontextmanager
async def pool(**limits: object) -> AsyncIterator[Pool]:
    opened = Pool(**limits)
    try:
        yield opened
    finally:
        opened.compiler.shutdown()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def children() -> list[psutil.Process]:
    """Returns the fork servers and grammar processes."""
    return psutil.Process().children(recursive=True)


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes signal nothing
            await asyncio.sleep(0.01)


def test_a_cached_grammar_is_not_compiled_again():
    async def test() -> None:
        async with pool(cache_size=2) as opened:
            for text in ("a", "b", "a", "c", "a", "b"):
                grammar = await opened.compile(text)
                assert allowed_by(grammar.start(frozenset())) == TOKENIZER.encode(text).ids
            # c evicts b, the least recently used
            expected = ["compiled", "compiled", "cached", "compiled", "cached", "compiled"]
            assert opened.asked_for == expected

    run(test)


def test_concurrent_requests_for_one_grammar_share_its_compilation():
    async def test() -> None:
        async with pool() as opened:
            grammars = await asyncio.gather(*(opened.compile("[ab]{9}") for _ in range(20)))
            assert len(set(grammars)) == 1

    run(test)


def test_a_process_ends_when_its_grammar_is_evicted():
    async def test() -> None:
        async with pool(cache_size=1) as opened:
            await opened.compile("a")
            before = len(children())
            for text in "bcde":
                await opened.compile(text)
            await until(lambda: len(children()) == before)
        await until(lambda: len(children()) == before - 2)

    run(test)


def test_a_grammar_beyond_max_bytes_is_refused():
    async def test() -> None:
        async with pool(max_bytes=4) as opened:
            await opened.compile("éé")
            with pytest.raises(InvalidGrammarError, match=r"5 bytes.* 4") as caught:
                await opened.compile("ééa")
            assert caught.value.field == ("here",)
            assert opened.asked_for == ["compiled", "refused"]

    run(test)


def test_a_slow_grammar_is_refused_and_its_process_ends():
    async def test() -> None:
        async with pool(timeout_seconds=1) as opened:
            before = len(children())
            with pytest.raises(InvalidGrammarError, match=r"1 s") as caught:
                await opened.slow(0)
            assert caught.value.field == ("here",)
            await until(lambda: len(children()) == before)
            await opened.compile("quick")

    run(test)


def test_slow_grammars_leave_quick_slots_free_and_are_refused_when_too_many_are_paused():
    async def test() -> None:
        async with pool(timeout_seconds=20) as opened:
            max_slow = 1 + MAX_PAUSED_PER_TENANT  # in a slow slot, or paused
            slow = [opened.slow(number) for number in range(max_slow + 3)]
            await until(lambda: sum(task.done() for task in slow) >= 3)
            errors = [task.exception() for task in slow if task.done()]
            assert {type(error) for error in errors} == {OverloadedError}
            assert {error.retry_after for error in errors} == {1}
            assert sum(not task.done() for task in slow) == max_slow
            await asyncio.wait_for(opened.compile("quick"), 15)
            assert "saturated" in opened.asked_for
            for task in slow:
                task.cancel()

    run(test)


def test_slow_grammars_of_one_tenant_leave_a_slow_slot_to_another(monkeypatch):
    """All grammars leave the quick slots at once; the attacker's never finish."""
    monkeypatch.setattr(compile_scheduler, "QUICK_SECONDS", 0)

    async def test() -> None:
        async with pool(timeout_seconds=20) as opened:
            slow = [opened.slow(number, "attacker") for number in range(6)]
            await until(lambda: sum(task.done() for task in slow) >= 3)
            await asyncio.wait_for(opened.compile("[ab]{9}", tenant="other"), 15)
            assert sum(not task.done() for task in slow) == 3
            for task in slow:
                task.cancel()

    run(test)


def test_the_time_limit_includes_the_wait_for_a_slot(monkeypatch):
    monkeypatch.setattr(compile_scheduler, "QUICK_SECONDS", 60)

    async def test() -> None:
        async with pool(timeout_seconds=2, max_memory_bytes=2**34) as opened:
            slow = [opened.slow(number) for number in range(NUM_QUICK)]
            await asyncio.sleep(0.5)
            with pytest.raises(OverloadedError):
                await asyncio.wait_for(opened.compile("quick"), 30)
            for task in slow:
                task.cancel()

    run(test)


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGKILL], ids=str)
def test_the_crash_of_a_process_refuses_only_its_grammar(crash, monkeypatch):
    async def test() -> None:
        async with pool() as opened:
            good = await opened.compile("[ab]+")
            before = set(children())
            slow = opened.slow(0)
            await until(lambda: set(children()) - before)
            (process,) = set(children()) - before
            await asyncio.sleep(0.1)  # it has sent its first message
            os.kill(process.pid, crash)
            with pytest.raises(InvalidSchemaError, match="too complex") as caught:
                await slow
            assert caught.value.field == ("here",)
            assert len(allowed_by(good.start(frozenset()))) > 1
            await opened.compile("another")

    run(test)


def test_a_grammar_that_exceeds_its_memory_is_refused():
    async def test() -> None:
        async with pool(max_memory_bytes=2**26, timeout_seconds=60) as opened:
            with pytest.raises(InvalidSchemaError, match="too complex"):
                await opened.slow(0)
            await opened.compile("another")

    run(test)


def test_the_fork_server_is_restarted_when_it_has_ended():
    async def test() -> None:
        before = set(children())
        async with pool() as opened:
            (server,) = set(children()) - before
            await opened.compile("a")
            server.kill()
            server.wait(10)
            await opened.compile("b")

    run(test)


def test_a_grammar_whose_process_has_ended_is_compiled_again():
    async def test() -> None:
        async with pool() as opened:
            before = set(children())
            first = await opened.compile("[ab]")
            (process,) = set(children()) - before
            process.kill()
            matcher = first.start(frozenset())
            with pytest.raises(Exception, match="ended"):
                allowed_by(matcher)
            second = await opened.compile("[ab]")
            assert second is not first
            assert len(allowed_by(second.start(frozenset()))) == 2

    run(test)


def test_a_cached_refusal_expires_and_names_the_field_of_each_request(monkeypatch):
    async def test() -> None:
        async with pool() as opened:
            schema = GrammarSource("json_schema", '{"items": {"not": {}}}', ("here",))
            other = GrammarSource("json_schema", schema.text, ("messages", 3))
            for source in (schema, other, schema):
                with pytest.raises(InvalidSchemaError, match="not") as caught:
                    await opened.compiler.compile(source)
                assert caught.value.field == (*source.field, "items")
            assert opened.asked_for == ["refused"] * 3
            assert opened.num_forks == 1
            now = time.monotonic() + REFUSAL_SECONDS
            monkeypatch.setattr(time, "monotonic", lambda: now)
            with pytest.raises(InvalidSchemaError):
                await opened.compiler.compile(schema)
            assert opened.num_forks == 2

    run(test)


def test_compiling_does_not_block_the_event_loop():
    async def test() -> None:
        async with pool(timeout_seconds=20) as opened:
            slow = opened.slow(0)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not slow.done()
            slow.cancel()

    run(test)


def test_processes_have_no_secrets_in_their_environment(monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")

    async def test() -> None:
        async with pool() as opened:
            await opened.compile("a")
            for process in children():
                if "structured_output.worker" in " ".join(process.cmdline()):
                    assert "A_SECRET" not in process.environ()

    run(test)
