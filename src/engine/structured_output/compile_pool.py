"""Compiles grammars in processes of their own: few at a time, each once, all in bounded time.

A compilation first has a quick slot. One that takes longer than `QUICK_SECONDS` is paused, and goes
on once it has a slow slot. So slow grammars delay ordinary ones for that long at most. Tenants take
turns in waiting for slots; one tenant has one slow slot and few paused compilations at most. A
refusal is remembered for `REFUSAL_SECONDS`, so that asking again costs nothing.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from src.engine.structured_output.fair_slots import FairSlots
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError, InvalidSchemaError, OverloadedError

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar
    from src.engine.structured_output.process import ForkServer, GrammarProcess

logger = logging.getLogger(__name__)

NUM_QUICK, NUM_SLOW = 2, 2
"""Grammars that are compiled at a time, in their first moments and after these."""

MAX_PAUSED, MAX_PAUSED_PER_TENANT = 16, 2
"""Compilations that wait for a slow slot at a time; others are given up."""

QUICK_SECONDS = 0.3
"""Almost all grammars take less, most a hundredth of it."""

REFUSAL_SECONDS = 60
"""A refusal is remembered for so long: what took too long may pass when the server is less busy."""

RETRY_SECONDS = 1
"""After so long a refused caller may come again: slots are free soon."""

WHOLE_TIME = 0.9
"""Share of its time that a compilation must have had before the grammar is called too slow."""

SATURATED = "The server is busy compiling other grammars: try again in a moment."


class GrammarOutcome(StrEnum):
    """What became of a grammar that was asked for."""

    COMPILED = "compiled"
    CACHED = "cached"
    REFUSED = "refused"
    SATURATED = "saturated"  # no slot in time


class GrammarObserver(Protocol):
    """Counts grammars; called in the event loop."""

    def grammar_asked_for(self, outcome: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a grammar was refused; `path` leads from the grammar to the place in it."""

    kind: type[InvalidGrammarError]
    message: str
    path: tuple[str | int, ...]
    until: float


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """What grammars may cost.

    Args:
        max_bytes: of one, as it is written.
        timeout_seconds: from its arrival until it is compiled, and for each answer afterwards.
        cache_size: compiled grammars that are kept for later requests.
        max_memory_bytes: of all grammars together; one may take a quarter of it.
    """

    max_bytes: int = 2**18
    timeout_seconds: float = 5
    cache_size: int = 64
    max_memory_bytes: int = 2**30


class GrammarCompiler:
    """Compiles grammars and remembers the last ones. Used in the event loop.

    Args:
        server: starts the processes.
        limits: what grammars may cost.
        observer: None counts nothing.
    """

    def __init__(
        self,
        server: "ForkServer",
        limits: GrammarLimits,
        observer: GrammarObserver | None = None,
    ) -> None:
        self._server = server
        self._limits = limits
        self._observer = observer
        self._threads = ThreadPoolExecutor(NUM_QUICK + NUM_SLOW + MAX_PAUSED, "compile-grammar")
        self._paused: Counter[str] = Counter()
        self._quick = FairSlots(NUM_QUICK)
        self._slow = FairSlots(NUM_SLOW, max_per_tenant=1)
        self._known: OrderedDict[GrammarSource, Grammar] = OrderedDict()
        self._refused: OrderedDict[tuple[object, ...], _Refusal] = OrderedDict()
        self._compiling: set[GrammarProcess] = set()
        self._running: dict[tuple[object, ...], asyncio.Task[Grammar]] = {}

    async def compile(self, source: GrammarSource, tenant: str = "") -> "Grammar":
        """Returns a grammar, compiled now or before.

        Args:
            source: the grammar.
            tenant: whose request it is.

        Raises:
            InvalidGrammarError: it is too large, takes too long or too much memory, or cannot be
                compiled.
            OverloadedError: too many others are being compiled.
        """
        outcome, started = GrammarOutcome.REFUSED, time.perf_counter()
        try:
            self._check_not_refused(source)
            grammar = self._recall(source)
            outcome = GrammarOutcome.CACHED if grammar else GrammarOutcome.COMPILED
            return grammar or await self._compile_once(source, tenant)
        except InvalidGrammarError as error:
            outcome = GrammarOutcome.REFUSED
            self._remember_refusal(source, error)
            raise
        except OverloadedError:
            outcome = GrammarOutcome.SATURATED
            raise
        finally:
            if self._observer is not None:
                self._observer.grammar_asked_for(outcome, time.perf_counter() - started)

    def shutdown(self) -> None:
        """Ends all grammar processes that no sequence uses. May be called in any thread."""
        for process in list(self._compiling):
            process.kill()
        self._known.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server.close()

    def _recall(self, source: GrammarSource) -> "Grammar | None":
        grammar = self._known.get(source)
        if grammar is None or not grammar.is_alive:
            return None
        self._known.move_to_end(source)
        return grammar

    def _check_not_refused(self, source: GrammarSource) -> None:
        """Refuses again what was refused lately; the field is this request's."""
        key = (source, source.part_fields)
        refusal = self._refused.get(key)
        if refusal is None:
            return
        if refusal.until < time.monotonic():
            del self._refused[key]
            return
        raise refusal.kind(refusal.message, (*source.field, *refusal.path))

    def _remember_refusal(self, source: GrammarSource, error: InvalidGrammarError) -> None:
        # The refusal of a part stands elsewhere in the request, where another one may have another.
        key = (source, source.part_fields)
        if key not in self._refused and error.field[: len(source.field)] == source.field:
            path = error.field[len(source.field) :]
            until = time.monotonic() + REFUSAL_SECONDS
            self._refused[key] = _Refusal(type(error), str(error), path, until)
            while len(self._refused) > self._limits.cache_size:
                self._refused.popitem(last=False)

    async def _compile_once(self, source: GrammarSource, tenant: str) -> "Grammar":
        """Waits for the compilation of this grammar that runs already, or starts it."""
        key = (source, source.field, source.part_fields, tenant)
        if key not in self._running:
            self._check_size(source)
            task = asyncio.create_task(self._compile(source, tenant))
            self._running[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(self._running[key])

    def _end(self, key: tuple[object, ...], task: "asyncio.Task[Grammar]") -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # the last caller may have left

    def _check_size(self, source: GrammarSource) -> None:
        num_bytes = len(source.text.encode("utf-8", "replace"))
        if num_bytes > self._limits.max_bytes:
            raise InvalidGrammarError(
                f"This takes {num_bytes} bytes, and the server's limit is {self._limits.max_bytes}:"
                " make it smaller.",
                source.field,
            )

    async def _compile(self, source: GrammarSource, tenant: str) -> "Grammar":
        from src.engine.structured_output.matcher import Grammar  # noqa: PLC0415 - numpy
        from src.engine.structured_output.process import ProcessEndedError  # noqa: PLC0415

        self._make_room()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._limits.timeout_seconds
        try:
            with await self._quick.acquire(tenant, deadline):
                started = clock()
                process, compiling = await self._start(source)
                await asyncio.wait({compiling}, timeout=QUICK_SECONDS)
        except TimeoutError:
            raise OverloadedError(SATURATED, RETRY_SECONDS) from None
        try:
            if not compiling.done():
                await self._go_on(process, compiling, tenant, deadline, started)
            await compiling
        except TimeoutError:
            raise _too_slow(source, self._limits.timeout_seconds) from None
        except ProcessEndedError as error:
            raise _too_complex(source) from error
        finally:
            self._compiling.discard(process)
            if not compiling.done():
                process.kill()
        grammar = Grammar(process, self._server.layout, source.special_token_ids)
        self._remember(source, grammar)
        return grammar

    async def _start(self, source: GrammarSource) -> "tuple[GrammarProcess, asyncio.Future[None]]":
        loop = asyncio.get_running_loop()
        process = await loop.run_in_executor(self._threads, self._server.fork)
        self._compiling.add(process)
        # The process ends itself a second after it should have been ended.
        timeout = self._limits.timeout_seconds + 1
        compiling = loop.run_in_executor(self._threads, process.compile, source, timeout)
        compiling.add_done_callback(lambda done: done.cancelled() or done.exception())
        return process, compiling

    async def _go_on(
        self,
        process: "GrammarProcess",
        compiling: "asyncio.Future[None]",
        tenant: str,
        deadline: float,
        started: float,
    ) -> None:
        """Lets a compilation go on in a slow slot.

        Raises:
            OverloadedError: waiting for slots took too much of the time.
            TimeoutError: the time is up.
        """
        clock = asyncio.get_running_loop().time
        paused = clock()
        try:
            with self._pause(process, tenant):
                slot = await self._slow.acquire(tenant, deadline)
            with slot:
                waited = clock() - paused
                await asyncio.wait({compiling}, timeout=max(0, deadline - clock()))
        except TimeoutError:
            raise OverloadedError(SATURATED, RETRY_SECONDS) from None
        if not compiling.done():
            if deadline - started - waited < WHOLE_TIME * self._limits.timeout_seconds:
                raise OverloadedError(SATURATED, RETRY_SECONDS)
            raise TimeoutError

    @contextmanager
    def _pause(self, process: "GrammarProcess", tenant: str) -> Iterator[None]:
        """Stops a compilation while the context lasts.

        Raises:
            OverloadedError: too many are stopped.
        """
        if self._paused.total() >= MAX_PAUSED or self._paused[tenant] >= MAX_PAUSED_PER_TENANT:
            raise OverloadedError(SATURATED, RETRY_SECONDS)
        self._paused[tenant] += 1
        process.pause()
        try:
            yield
        finally:
            process.resume()
            self._paused[tenant] -= 1
            self._paused += Counter()  # drops tenants without any

    def _make_room(self) -> None:
        """Lets go of the grammars that were used least lately while memory is short.

        If that is not enough, the largest one in use gives way.
        """
        while self._server.is_low_on_memory and self._known:
            self._known.popitem(last=False)
        if self._server.is_low_on_memory:
            self._server.kill_largest()

    def _remember(self, source: GrammarSource, grammar: "Grammar") -> None:
        self._known[source] = grammar
        self._known.move_to_end(source)
        while len(self._known) > self._limits.cache_size:
            self._known.popitem(last=False)


def _too_slow(source: GrammarSource, timeout_seconds: float) -> InvalidGrammarError:
    return InvalidGrammarError(
        f"This takes longer to compile than the server allows, {timeout_seconds:g} s: make it"
        " simpler.",
        source.field,
    )


def _too_complex(source: GrammarSource) -> InvalidGrammarError:
    kind = InvalidSchemaError if source.kind == "json_schema" else InvalidGrammarError
    return kind(
        "Answers cannot be shaped by this: It is too complex for this server. Make it simpler:"
        " fewer levels, references, repetitions and alternatives.",
        source.field,
    )


def create_grammar_compiler(
    loaded: "LoadedModel", limits: GrammarLimits, observer: GrammarObserver | None
) -> GrammarCompiler | None:
    """Returns the compiler of a model's grammars; None, with a warning, if it can have none."""
    # numpy and llguidance take time to import that the start of the server does not have.
    from src.engine.structured_output.process import ForkServer  # noqa: PLC0415
    from src.engine.structured_output.vocabulary import UnreadableTokenizerError  # noqa: PLC0415

    try:
        server = ForkServer(loaded.tokenizer.to_str(), loaded.vocab_size, limits.max_memory_bytes)
    except UnreadableTokenizerError as error:
        logger.warning("structured output is refused: %s", error)
        return None
    return GrammarCompiler(server, limits, observer)
