"""`CallTimings`: times and counts of one call's sequences, for the answer itself.

The engine's outputs are timed when they reach the event loop, so a client that reads slowly does
not change them.
"""

import time
from dataclasses import dataclass

from src.engine.request import Admission, Request, RequestOutput


@dataclass(slots=True, eq=False)
class CallTimings:
    """Times and counts of all sequences of a call, filled in while they run.

    The times follow one another: `queue_seconds` until the first sequence is admitted,
    `prefill_seconds` until the first token of any sequence, `decode_seconds` until the last token
    of all. Tokenization and the compilation of a grammar come before and do not count.

    Args:
        num_prompts: number of prompts that were admitted.
        num_prompt_tokens: their tokens.
        num_cached_tokens: those of them that came from the prefix cache.
        num_new_tokens: generated tokens that belong to answers.
        num_drafted: drafted tokens that were verified.
        num_accepted: drafted tokens that were accepted.
    """

    num_prompts: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_new_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    _arrived_at: float | None = None  # this and the next: monotonic clock, in seconds
    _admitted_at: float | None = None
    _first_token_at: float | None = None
    _last_token_at: float | None = None

    def add(
        self, request: Request, output: RequestOutput, num_kept: int, *, is_first: bool
    ) -> None:
        """Records an output of a sequence now.

        Args:
            request: of the sequence.
            output: of one step.
            num_kept: number of its tokens that belong to the answer.
            is_first: the sequence is the first of its prompt; others share the prompt's tokens.
        """
        if output.admission is not None:
            self._admit(request, output.admission, is_first=is_first)
        self.num_drafted += output.num_drafted
        self.num_accepted += max(0, len(output.new_token_ids) - 1)
        if num_kept:
            now = time.monotonic()
            self.num_new_tokens += num_kept
            self._first_token_at = _earlier(self._first_token_at, now)
            self._last_token_at = now

    def _admit(self, request: Request, admission: Admission, *, is_first: bool) -> None:
        admitted_at = request.arrived_at + admission.queue_seconds
        self._arrived_at = _earlier(self._arrived_at, request.arrived_at)
        self._admitted_at = _earlier(self._admitted_at, admitted_at)
        if is_first:
            self.num_prompts += 1
            self.num_prompt_tokens += len(request.prompt_token_ids)
            self.num_cached_tokens += admission.num_cached_tokens

    @property
    def queue_seconds(self) -> float:
        return _between(self._arrived_at, self._admitted_at)

    @property
    def prefill_seconds(self) -> float:
        return _between(self._admitted_at, self._first_token_at)

    @property
    def decode_seconds(self) -> float:
        return _between(self._first_token_at, self._last_token_at)

    @property
    def num_computed_tokens(self) -> int:
        """The prompts' tokens that did not come from the prefix cache."""
        return self.num_prompt_tokens - self.num_cached_tokens

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """None for several prompts, as the first token of one does not tell about the others."""
        if self.num_prompts != 1 or not self.prefill_seconds:
            return None
        return self.num_computed_tokens / self.prefill_seconds

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first one, which belongs to the prefill; None without any."""
        if self.num_new_tokens < 2 or not self.decode_seconds:
            return None
        return (self.num_new_tokens - 1) / self.decode_seconds


def _earlier(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)


def _between(start: float | None, end: float | None) -> float:
    """Returns the seconds from one point in time to another; 0 if one of them is missing."""
    return 0.0 if start is None or end is None else max(0.0, end - start)
