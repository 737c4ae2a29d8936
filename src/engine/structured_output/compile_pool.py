"""Compiled grammars of one model: an LRU cache before the processes that compile them.

Concurrent requests for the same grammar share one compilation. Refusals are cached, too.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from src.engine.structured_output.compile_scheduler import CompileScheduler
from src.engine.structured_output.refusals import (
    RefusalCache,
    too_complex,
    too_large,
    too_slow,
)
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError, OverloadedError

if TYPE_CHECKING:
    from src.engine.structured_output.fork_server import ForkServer
    from src.engine.structured_output.matcher import Grammar

logger = logging.getLogger(__name__)


class GrammarOutcome(StrEnum):
    """Result of a request for a grammar."""

    COMPILED = "compiled"
    CACHED = "cached"
    REFUSED = "refused"
    SATURATED = "saturated"  # no slot in time


class GrammarObserver(Protocol):
    """Counts grammars; called in the event loop."""

    def grammar_asked_for(self, outcome: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """Limits on the cost of grammars.

    Args:
        max_bytes: size of a grammar's text in UTF-8.
        timeout_seconds: from the arrival of a grammar until it is compiled, and for each answer of
            its process afterwards.
        cache_size: compiled grammars that are kept for later requests.
        max_memory_bytes: memory of all grammars together; one may take a quarter of it.
    """

    max_bytes: int = 2**18
    timeout_seconds: float = 5
    cache_size: int = 64
    max_memory_bytes: int = 2**30


class GrammarCompiler:
    """Compiles grammars and caches them. Used in the event loop.

    Args:
        server: starts the processes.
        limits: limits on the cost of grammars.
        observer: counts grammars; may be None.
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
        self._scheduler = CompileScheduler(server, limits.timeout_seconds)
        self._grammars: OrderedDict[GrammarSource, Grammar] = OrderedDict()  # oldest use first
        self._refusals = RefusalCache(limits.cache_size)
        self._running: dict[tuple[object, ...], asyncio.Task[Grammar]] = {}

    async def compile(self, source: GrammarSource, tenant: str = "") -> "Grammar":
        """Returns a grammar from the cache, or compiles it.

        Args:
            source: the grammar.
            tenant: owner of the request.

        Raises:
            InvalidGrammarError: it is too large, takes too long or too much memory, or cannot be
                compiled.
            OverloadedError: too many other grammars are being compiled.
        """
        outcome, started = GrammarOutcome.REFUSED, time.perf_counter()
        try:
            self._refusals.check(source)
            grammar = self._cached(source)
            outcome = GrammarOutcome.CACHED if grammar else GrammarOutcome.COMPILED
            return grammar or await self._compile_once(source, tenant)
        except InvalidGrammarError as error:
            outcome = GrammarOutcome.REFUSED
            self._refusals.add(source, error)
            raise
        except OverloadedError:
            outcome = GrammarOutcome.SATURATED
            raise
        finally:
            if self._observer is not None:
                self._observer.grammar_asked_for(outcome, time.perf_counter() - started)

    def shutdown(self) -> None:
        """Ends all grammar processes without sequences. May be called in any thread."""
        self._scheduler.shutdown()
        self._grammars.clear()
        self._server.close()

    def _cached(self, source: GrammarSource) -> "Grammar | None":
        grammar = self._grammars.get(source)
        if grammar is None or not grammar.is_alive:
            return None
        self._grammars.move_to_end(source)
        return grammar

    async def _compile_once(self, source: GrammarSource, tenant: str) -> "Grammar":
        """Joins a running compilation of this grammar for this tenant, or starts one."""
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
            task.exception()  # marks it as retrieved; the last caller may have left

    def _check_size(self, source: GrammarSource) -> None:
        num_bytes = len(source.text.encode("utf-8", "replace"))
        if num_bytes > self._limits.max_bytes:
            raise too_large(source, num_bytes, self._limits.max_bytes)

    async def _compile(self, source: GrammarSource, tenant: str) -> "Grammar":
        from src.engine.structured_output.grammar_process import (  # noqa: PLC0415 - numpy
            ProcessEndedError,
        )
        from src.engine.structured_output.matcher import Grammar  # noqa: PLC0415

        self._free_memory()
        try:
            process = await self._scheduler.compile(source, tenant)
        except TimeoutError:
            raise too_slow(source, self._limits.timeout_seconds) from None
        except ProcessEndedError as error:
            raise too_complex(source) from error
        grammar = Grammar(process, self._server.layout, source.special_token_ids)
        self._cache(source, grammar)
        return grammar

    def _free_memory(self) -> None:
        """Evicts the least recently used grammars while memory is low.

        If that is not enough, it ends the process with the most memory, even in use.
        """
        while self._server.is_low_on_memory and self._grammars:
            self._grammars.popitem(last=False)
        if self._server.is_low_on_memory:
            self._server.kill_largest()

    def _cache(self, source: GrammarSource, grammar: "Grammar") -> None:
        self._grammars[source] = grammar
        self._grammars.move_to_end(source)
        while len(self._grammars) > self._limits.cache_size:
            self._grammars.popitem(last=False)


def create_grammar_compiler(
    tokenizer: str, vocab_size: int, limits: GrammarLimits, observer: GrammarObserver | None
) -> GrammarCompiler | None:
    """Returns the compiler of a model's grammars; None for a tokenizer that is not supported.

    Args:
        tokenizer: the JSON of the model's tokenizer.
        vocab_size: size of the model's vocabulary.
        limits: limits on the cost of grammars.
        observer: counts grammars; may be None.
    """
    # Deferred: numpy and llguidance would delay the start of the server.
    from src.engine.structured_output.fork_server import ForkServer  # noqa: PLC0415
    from src.engine.structured_output.vocabulary import UnreadableTokenizerError  # noqa: PLC0415

    try:
        server = ForkServer(tokenizer, vocab_size, limits.max_memory_bytes)
    except UnreadableTokenizerError as error:
        logger.warning("structured output is disabled: tokenizer not supported: %s", error)
        return None
    return GrammarCompiler(server, limits, observer)
