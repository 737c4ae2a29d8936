"""Errors that refuse a grammar, and a cache of them."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from src.engine.structured_output.source import GrammarSource
from src.errors import FieldPath, InvalidGrammarError, InvalidSchemaError

REFUSAL_SECONDS = 60
"""Lifetime of a cached refusal: a grammar that took too long may pass on a less busy server."""

MAX_REASON_LENGTH = 300
"""Characters of the compiler's reason; the rest is cut."""


def unusable(source: GrammarSource, reason: str, path: FieldPath = ()) -> InvalidGrammarError:
    """Returns the error of a malformed, unsupported or too complex grammar.

    Args:
        source: the grammar.
        reason: one or more sentences; may have several lines.
        path: the place of the fault in the grammar.
    """
    field = (*source.field, *path)
    reason = " ".join(line.strip() for line in reason.splitlines())[:MAX_REASON_LENGTH]
    if source.kind == "json_schema":
        return InvalidSchemaError(f"This JSON schema cannot be used: {reason}", field)
    return InvalidGrammarError(f"This grammar cannot be used: {reason}", field)


def too_complex(source: GrammarSource) -> InvalidGrammarError:
    """Returns the error of a grammar that crashed its process or exceeded its memory."""
    return unusable(
        source,
        "It is too complex for this server: use fewer levels, references, repetitions and"
        " alternatives.",
    )


def too_slow(source: GrammarSource, timeout_seconds: float) -> InvalidGrammarError:
    """Returns the error of a grammar that did not compile in time."""
    return InvalidGrammarError(
        f"This grammar takes longer to compile than GRAMMAR_TIMEOUT_SECONDS, {timeout_seconds:g} s:"
        " simplify it.",
        source.field,
    )


def too_large(source: GrammarSource, num_bytes: int, max_bytes: int) -> InvalidGrammarError:
    """Returns the error of a grammar that is too long to be compiled."""
    return InvalidGrammarError(
        f"This grammar has {num_bytes} bytes; MAX_GRAMMAR_BYTES is {max_bytes}: make it smaller.",
        source.field,
    )


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A cached error; `path` is the place of the fault in the grammar."""

    kind: type[InvalidGrammarError]
    message: str
    path: FieldPath
    expires_at: float


class RefusalCache:
    """Caches errors for `REFUSAL_SECONDS`, so that repeating a refused request costs nothing.

    Args:
        size: number of errors; the oldest one is dropped.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._refusals: OrderedDict[tuple[object, ...], _Refusal] = OrderedDict()

    def check(self, source: GrammarSource) -> None:
        """Raises the cached error of a grammar with the field of this request.

        Raises:
            InvalidGrammarError: the grammar was refused within the last `REFUSAL_SECONDS`.
        """
        key = _key(source)
        refusal = self._refusals.get(key)
        if refusal is None:
            return
        if refusal.expires_at < time.monotonic():
            del self._refusals[key]
            return
        raise refusal.kind(refusal.message, (*source.field, *refusal.path))

    def add(self, source: GrammarSource, error: InvalidGrammarError) -> None:
        """Caches an error, unless the grammar has one or the fault is in one of its parts.

        A part stands elsewhere in the request, and need not stand there in the next request.
        """
        key, num_steps = _key(source), len(source.field)
        if key in self._refusals or error.field[:num_steps] != source.field:
            return
        expires_at = time.monotonic() + REFUSAL_SECONDS
        self._refusals[key] = _Refusal(type(error), str(error), error.field[num_steps:], expires_at)
        while len(self._refusals) > self._size:
            self._refusals.popitem(last=False)


def _key(source: GrammarSource) -> tuple[object, ...]:
    return source, source.part_fields
