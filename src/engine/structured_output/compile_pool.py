"""Compiles grammars off the event loop: few at a time, each in bounded time, and each but once."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError

if TYPE_CHECKING:
    from src.engine.model_loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar

logger = logging.getLogger(__name__)

NUM_THREADS = 2
"""So many grammars are compiled at a time; others wait."""


class GrammarOutcome(StrEnum):
    """What became of a grammar that was asked for."""

    COMPILED = "compiled"
    CACHED = "cached"
    REFUSED = "refused"


class GrammarObserver(Protocol):
    """Who counts grammars; called in the event loop."""

    def grammar_asked_for(self, outcome: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """What grammars may cost.

    Args:
        max_bytes: of one, as it is written.
        timeout_seconds: to compile one.
        cache_size: so many are remembered.
    """

    max_bytes: int = 2**18
    timeout_seconds: float = 5
    cache_size: int = 64


class GrammarCompiler:
    """Compiles grammars in threads of its own, and remembers the last ones.

    All but the compiling happens in the event loop.

    Args:
        compile_source: does it; raises InvalidGrammarError.
        limits: what it may cost.
        observer: None counts nothing.
    """

    def __init__(
        self,
        compile_source: "Callable[[GrammarSource], Grammar]",
        limits: GrammarLimits,
        observer: GrammarObserver | None = None,
    ) -> None:
        self._compile_source = compile_source
        self._limits = limits
        self._observer = observer
        self._threads = ThreadPoolExecutor(NUM_THREADS, "compile-grammar")
        self._free = asyncio.Semaphore(NUM_THREADS)
        self._known: OrderedDict[GrammarSource, Grammar] = OrderedDict()

    async def compile(self, source: GrammarSource) -> "Grammar":
        """Returns a grammar, compiled now or before.

        Raises:
            InvalidGrammarError: it is too large, takes too long, or cannot be compiled.
        """
        for part in source.parts:
            await self.compile(part)
        outcome, started = GrammarOutcome.REFUSED, time.perf_counter()
        try:
            grammar = self._known.get(source)
            outcome = GrammarOutcome.COMPILED if grammar is None else GrammarOutcome.CACHED
            if grammar is None:
                self._check_size(source)
                grammar = await self._run(source)
        except InvalidGrammarError:
            outcome = GrammarOutcome.REFUSED
            raise
        finally:
            if self._observer is not None:
                self._observer.grammar_asked_for(outcome, time.perf_counter() - started)
        self._remember(source, grammar)
        return grammar

    def shutdown(self) -> None:
        """Ends the threads once they are done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _remember(self, source: GrammarSource, grammar: "Grammar") -> None:
        self._known[source] = grammar
        self._known.move_to_end(source)
        while len(self._known) > self._limits.cache_size:
            self._known.popitem(last=False)

    def _check_size(self, source: GrammarSource) -> None:
        num_bytes = len(source.text.encode("utf-8", "replace"))
        if num_bytes > self._limits.max_bytes:
            raise InvalidGrammarError(
                f"This takes {num_bytes} bytes, and the server's limit is {self._limits.max_bytes}:"
                " make it smaller.",
                source.field,
            )

    async def _run(self, source: GrammarSource) -> "Grammar":
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, self._compile_source, source)
        # A thread cannot be stopped: it is free when it is done, however long others wait for it.
        running.add_done_callback(self._has_ended)
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await asyncio.shield(running)
        except TimeoutError:
            raise InvalidGrammarError(
                f"This takes longer to compile than the server allows,"
                f" {self._limits.timeout_seconds:g} s: make it simpler.",
                source.field,
            ) from None

    def _has_ended(self, running: "asyncio.Future[Grammar]") -> None:
        self._free.release()
        if not running.cancelled():
            running.exception()  # it is told even if nobody waits for it any more


def create_grammar_compiler(
    loaded: "LoadedModel", limits: GrammarLimits, observer: GrammarObserver | None
) -> GrammarCompiler | None:
    """Returns what compiles grammars for a model; None, and a warning, if nothing can."""
    # What it imports takes time that the start of the server has not.
    from src.engine.structured_output.compiler import compile_grammar  # noqa: PLC0415
    from src.engine.structured_output.vocabulary import UnreadableTokenizerError, Vocabulary  # noqa: PLC0415

    try:
        vocabulary = Vocabulary(loaded.tokenizer, loaded.vocab_size)
    except UnreadableTokenizerError as error:
        logger.warning("structured output is refused: %s", error)
        return None
    return GrammarCompiler(lambda source: compile_grammar(vocabulary, source), limits, observer)
