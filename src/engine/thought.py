"""Thoughts in the engine: they end at their budget, and grammars begin after them.

A reasoning model writes a thought before its answer. The engine follows a thought only if it has a
budget or if a grammar waits for its end; `src/text/reasoning.py` splits the text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

MAX_TAG_BYTES = 64
"""Bytes of earlier tokens that can hold the beginning of a tag."""


@dataclass(frozen=True, slots=True)
class ThoughtParams:
    """The thought before an answer.

    Args:
        begin: opening tag.
        end: closing tag.
        begin_ids: tokens of the opening tag.
        end_ids: tokens that end the thought when its budget is spent.
        special_token_ids: tags that are special tokens of the model.
        is_open: the prompt has opened the thought.
        must_begin: with a grammar, the answer begins with the opening tag.
        budget: maximum number of tokens between the tags; None is no limit.
    """

    begin: str
    end: str
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    special_token_ids: frozenset[int] = frozenset()
    is_open: bool = False
    must_begin: bool = False
    budget: int | None = None

    @property
    def precedes_grammar(self) -> bool:
        """True if an answer with a grammar may begin with a thought.

        Without knowing it from the prompt, one token must tell the thought from the grammar's text.
        """
        may_begin = len(self.begin_ids) == 1 and self.budget != 0
        return self.is_open or self.must_begin or may_begin


@dataclass(frozen=True, slots=True)
class Thought:
    """A thought that the engine follows.

    Args:
        params: tags, budget and beginning.
        bytes_of: returns the bytes of a token.
        has_grammar: a grammar begins after it.
    """

    params: ThoughtParams
    bytes_of: Callable[[int], bytes] = field(compare=False)
    has_grammar: bool

    def start(self) -> "ThoughtTracker":
        """Returns the state of the thought in a new sequence."""
        return ThoughtTracker(self)


class ThoughtTracker:
    """State of the thought in one sequence. Used by the engine's thread only.

    Args:
        thought: tags, budget and beginning.

    Attributes:
        forced: tokens that must come next.
    """

    def __init__(self, thought: Thought) -> None:
        params = thought.params
        self._params = params
        self._bytes_of = thought.bytes_of
        self._has_grammar = thought.has_grammar
        self._begin, self._end = params.begin.encode(), params.end.encode()
        self._tail = b""
        self._num_tokens = 0
        self._is_inside = False
        self._is_over = thought.has_grammar and not params.precedes_grammar
        self.forced: list[int] = []
        if params.is_open:
            self._enter()
        elif params.must_begin and thought.has_grammar:
            self.forced = list(params.begin_ids)

    @property
    def is_open(self) -> bool:
        """True inside of the thought and of its tags."""
        return self._is_inside or bool(self.forced)

    @property
    def forced_token_id(self) -> int | None:
        """The token that must come next; None leaves the choice to the model."""
        return self.forced[0] if self.forced else None

    @property
    def offered_token_id(self) -> int | None:
        """The opening tag, if it may come although the sequence's grammar does not allow it."""
        is_offered = self._has_grammar and not (self._is_over or self.is_open)
        return self._params.begin_ids[0] if is_offered else None

    @property
    def num_free(self) -> int | None:
        """Number of tokens up to the end of the budget; None without a limit."""
        if self._is_over or self._params.budget is None:
            return None
        return max(0, self._params.budget - self._num_tokens)

    def takes(self, token_id: int) -> bool:
        """Returns True if the next token is part of the thought, and so not of the grammar."""
        return self.is_open or token_id == self.offered_token_id

    def add(self, token_id: int) -> None:
        """Takes the next token of the sequence."""
        if self._is_over and not self.forced:
            return
        is_taken = self.takes(token_id)
        if self.forced:
            self.forced.pop(0)
        if self._is_over:
            return
        self._tail += self._bytes_of(token_id)
        if self._is_inside:
            self._read_inside()
        elif self._has_grammar and not is_taken:
            self._is_over = True
        else:
            self._read_begin()

    def _enter(self) -> None:
        self._is_inside, self._tail = True, b""
        self._spend(0)

    def _read_begin(self) -> None:
        text = self._tail.lstrip()
        if text.startswith(self._begin):
            self._enter()
        elif not self._begin.startswith(text):
            self._is_over = True

    def _read_inside(self) -> None:
        if self._end in self._tail:
            self._is_inside, self._is_over = False, True
            return
        self._tail = self._tail[-MAX_TAG_BYTES:]
        self._spend(1)

    def _spend(self, num_tokens: int) -> None:
        """Counts tokens of the thought, and forces its end when the budget is spent."""
        self._num_tokens += num_tokens
        budget = self._params.budget
        if budget is not None and self._num_tokens >= budget and not self.forced:
            self.forced = list(self._params.end_ids)
