"""Schedules compilations: a multilevel feedback queue of two levels (Corbató et al. 1962).

Each compilation starts in a quick slot. After `QUICK_SECONDS` it is paused until a slow slot is
free, so slow grammars delay quick ones for at most that long. Tenants take turns in waiting for
slots. Slow slots and paused compilations of one tenant are limited.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.engine.structured_output.fair_slots import FairSlots
from src.engine.structured_output.source import GrammarSource
from src.errors import OverloadedError

if TYPE_CHECKING:
    from src.engine.structured_output.fork_server import ForkServer
    from src.engine.structured_output.grammar_process import GrammarProcess

NUM_QUICK, NUM_SLOW = 2, 2
"""Slots of each level: grammars that are compiled at the same time."""

MAX_PAUSED, MAX_PAUSED_PER_TENANT = 16, 2
"""Compilations that may wait for a slow slot; more are refused with 503."""

QUICK_SECONDS = 0.3
"""Time in a quick slot. Almost all grammars compile within it, most within a hundredth of it."""

MIN_TIME_SHARE = 0.9
"""A grammar counts as too slow if its compilation could run for this share of the time limit."""

SATURATED = "The server is busy compiling other grammars: try again in a moment."

RETRY_SECONDS = 1
"""`Retry-After` of that error: slots are free soon."""


@dataclass(frozen=True, slots=True)
class _Compilation:
    """A compilation that runs or is paused; times are on the event loop's clock."""

    process: "GrammarProcess"
    result: "asyncio.Future[None]"
    tenant: str
    started: float
    deadline: float


class CompileScheduler:
    """Compiles grammars in their processes, a few at a time. Used in the event loop.

    Args:
        server: starts the processes.
        timeout_seconds: from the arrival of a grammar until it is compiled, and for each answer of
            its process afterwards.
    """

    def __init__(self, server: "ForkServer", timeout_seconds: float) -> None:
        self._server = server
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(NUM_QUICK + NUM_SLOW + MAX_PAUSED, "compile-grammar")
        self._quick = FairSlots(NUM_QUICK)
        self._slow = FairSlots(NUM_SLOW, max_per_tenant=1)
        self._num_paused: Counter[str] = Counter()
        self._processes: set[GrammarProcess] = set()  # that compile now

    async def compile(self, source: GrammarSource, tenant: str) -> "GrammarProcess":
        """Returns the process of a compiled grammar.

        Args:
            source: the grammar.
            tenant: owner of the request.

        Raises:
            InvalidGrammarError: the grammar cannot be compiled.
            OverloadedError: too many other grammars are being compiled.
            ProcessEndedError: the process exceeded its limits, or crashed.
            TimeoutError: the compilation takes too long.
        """
        compilation = await self._start(source, tenant)
        result = compilation.result
        try:
            if not result.done():
                await self._continue(compilation)
            await result
        finally:
            self._processes.discard(compilation.process)
            if not result.done():
                compilation.process.kill()
        return compilation.process

    def shutdown(self) -> None:
        """Ends all compilations. May be called in any thread."""
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _start(self, source: GrammarSource, tenant: str) -> _Compilation:
        """Starts a compilation in a quick slot and waits for it as long as it may have the slot."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout_seconds
        try:
            with await self._quick.acquire(tenant, deadline):
                started = clock()
                process, result = await self._fork(source)
                await asyncio.wait({result}, timeout=QUICK_SECONDS)
        except TimeoutError:
            raise OverloadedError(SATURATED, RETRY_SECONDS) from None
        return _Compilation(process, result, tenant, started, deadline)

    async def _fork(self, source: GrammarSource) -> "tuple[GrammarProcess, asyncio.Future[None]]":
        loop = asyncio.get_running_loop()
        process = await loop.run_in_executor(self._threads, self._server.fork)
        self._processes.add(process)
        # The process ends itself a second after the scheduler should have ended it.
        timeout = self._timeout_seconds + 1
        result = loop.run_in_executor(self._threads, process.compile, source, timeout)
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return process, result

    async def _continue(self, compilation: _Compilation) -> None:
        """Pauses a compilation until a slow slot is free, then waits for its end.

        Raises:
            OverloadedError: waiting for slots took too much of the time.
            TimeoutError: the time is up.
        """
        clock = asyncio.get_running_loop().time
        tenant, deadline = compilation.tenant, compilation.deadline
        paused = clock()
        try:
            with self._pause(compilation):
                slot = await self._slow.acquire(tenant, deadline)
            with slot:
                waited = clock() - paused
                await asyncio.wait({compilation.result}, timeout=max(0, deadline - clock()))
        except TimeoutError:
            raise OverloadedError(SATURATED, RETRY_SECONDS) from None
        if not compilation.result.done():
            if deadline - compilation.started - waited < MIN_TIME_SHARE * self._timeout_seconds:
                raise OverloadedError(SATURATED, RETRY_SECONDS)
            raise TimeoutError

    @contextmanager
    def _pause(self, compilation: _Compilation) -> Iterator[None]:
        """Pauses a compilation while the context lasts.

        Raises:
            OverloadedError: too many are paused.
        """
        num_paused, tenant = self._num_paused, compilation.tenant
        if num_paused.total() >= MAX_PAUSED or num_paused[tenant] >= MAX_PAUSED_PER_TENANT:
            raise OverloadedError(SATURATED, RETRY_SECONDS)
        num_paused[tenant] += 1
        compilation.process.pause()
        try:
            yield
        finally:
            compilation.process.resume()
            num_paused[tenant] -= 1
            num_paused += Counter()  # drops tenants without any
