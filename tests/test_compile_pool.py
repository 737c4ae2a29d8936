"""Compiling off the event loop: bounded in size, time and threads, and remembered for a while."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from src.engine.structured_output.compile_pool import NUM_THREADS, GrammarCompiler, GrammarLimits
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError


class Compiler:
    """Compiles a text to itself, and counts; a text "slow" takes until it is let go."""

    def __init__(self, **limits: object) -> None:
        self.compiled: list[str] = []
        self.asked_for: list[str] = []
        self.go_on = threading.Event()
        self.num_running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        self.compiler = GrammarCompiler(self._compile, GrammarLimits(**limits), self)

    def grammar_asked_for(self, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.asked_for.append(outcome)

    def _compile(self, source: GrammarSource) -> str:
        with self._lock:
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
        if source.text.startswith("slow"):
            assert self.go_on.wait(60)
        with self._lock:
            self.num_running -= 1
            self.compiled.append(source.text)
        if source.text == "bad":
            raise InvalidGrammarError("bad", source.field)
        return source.text

    async def compile(self, text: str) -> str:
        return await self.compiler.compile(GrammarSource("regex", text, ("here",)))


def run(test: Callable[[], object]) -> None:
    asyncio.run(test())


def test_a_grammar_is_compiled_once_while_it_is_remembered():
    async def test() -> None:
        one = Compiler(cache_size=2)
        for text in ("a", "b", "a", "c", "a", "b"):
            assert await one.compile(text) == text
        assert one.compiled == ["a", "b", "c", "b"]  # b was the oldest when c came
        assert one.asked_for == ["compiled", "compiled", "cached", "compiled", "cached", "compiled"]
        one.compiler.shutdown()

    run(test)


def test_a_grammar_that_is_too_large_is_not_looked_at():
    async def test() -> None:
        one = Compiler(max_bytes=4)
        assert await one.compile("éé") == "éé"
        with pytest.raises(InvalidGrammarError, match=r"5 bytes.* 4") as caught:
            await one.compile("ééa")
        assert caught.value.field == ("here",)
        assert one.compiled == ["éé"]
        assert one.asked_for == ["compiled", "refused"]
        one.compiler.shutdown()

    run(test)


def test_a_grammar_that_takes_too_long_is_refused_and_no_more_threads_than_there_are_compile():
    async def test() -> None:
        one = Compiler(timeout_seconds=0.05)
        slow = [asyncio.create_task(one.compile(f"slow {index}")) for index in range(5)]
        for task in slow[:NUM_THREADS]:
            with pytest.raises(InvalidGrammarError, match=r"0\.05 s"):
                await task
        await asyncio.sleep(0.2)
        waiting = slow[NUM_THREADS:]
        assert not any(task.done() for task in waiting), "their time has not begun"
        one.go_on.set()
        assert await asyncio.wait_for(one.compile("quick"), 60) == "quick"
        await asyncio.wait(waiting)
        assert one.most_running == NUM_THREADS
        one.compiler.shutdown()

    run(test)


def test_the_event_loop_goes_on_meanwhile():
    async def test() -> None:
        one = Compiler(timeout_seconds=60)
        slow = asyncio.create_task(one.compile("slow"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not slow.done()
        one.go_on.set()
        assert await slow == "slow"
        one.compiler.shutdown()

    run(test)


def test_who_leaves_takes_no_thread_along():
    async def test() -> None:
        one = Compiler(timeout_seconds=60)
        for index in range(2 * NUM_THREADS):
            task = asyncio.create_task(one.compile(f"slow {index}"))
            await asyncio.sleep(0.01)
            task.cancel()
        one.go_on.set()
        assert await asyncio.wait_for(one.compile("quick"), 60) == "quick"
        one.compiler.shutdown()

    run(test)


def test_a_refusal_is_handed_on_and_not_remembered():
    async def test() -> None:
        one = Compiler()
        for _ in range(2):
            with pytest.raises(InvalidGrammarError, match="bad"):
                await one.compile("bad")
        assert one.compiled == ["bad", "bad"]
        assert one.asked_for == ["refused", "refused"]
        one.compiler.shutdown()

    run(test)
