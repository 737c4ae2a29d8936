"""Protocols for metrics, traces and usage accounts, and the record that they share.

`OutputDispatcher` calls them in the event loop. Times are in seconds, points in time on the
monotonic clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from src.engine.request import EngineStats, FinishReason, StepStats
from src.engine.sampling_params import SamplingParams


class Outcome(StrEnum):
    """End of a sequence, as a label of metrics and traces."""

    STOP = "stop"
    LENGTH = "length"
    EMBEDDED = "embedded"
    CANCELLED = "cancelled"  # the caller left
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    EXPIRED = "expired"  # it waited in the queue too long
    DISPLACED = "displaced"  # another tenant got its place in the full queue
    DEAD_END = "dead_end"  # its grammar allowed no next token, or exceeded its limits
    ERROR = "error"


OUTCOMES = {
    FinishReason.STOP: Outcome.STOP,
    FinishReason.LENGTH: Outcome.LENGTH,
    FinishReason.EMBEDDED: Outcome.EMBEDDED,
    FinishReason.ABORT: Outcome.SHUTDOWN,  # the dispatcher sets the outcome of its own aborts
    FinishReason.EXPIRED: Outcome.EXPIRED,
    FinishReason.DISPLACED: Outcome.DISPLACED,
    FinishReason.DEAD_END: Outcome.DEAD_END,
    FinishReason.ERROR: Outcome.ERROR,
}

LEFT_QUEUE = frozenset({Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.EXPIRED, Outcome.DISPLACED})
"""Outcomes of a sequence that was never admitted but left the queue while the engine ran on."""


@dataclass(slots=True, eq=False)
class SequenceStats:
    """Counts and times of one sequence; the dispatcher fills it in while the sequence runs.

    Args:
        request_id: id in the engine.
        operation: the call's `Operation`.
        params: sampling parameters.
        num_prompt_tokens: length of the prompt.
        arrived_at: time of submission.
        num_cached_tokens: the prompt's tokens found in the KV cache.
        num_tokens: generated tokens.
        admitted_at: end of the time in the queue; None if it was never admitted.
        first_token_at: time of the first token; None without tokens.
        last_token_at: time of the last token; None without tokens.
        ended_at: time of the end; None before.
        outcome: the end; None before.
    """

    request_id: str
    operation: str
    params: SamplingParams
    num_prompt_tokens: int
    arrived_at: float
    num_cached_tokens: int = 0
    num_tokens: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None

    @property
    def queue_seconds(self) -> float | None:
        """Time in the queue; None while waiting, and if the engine ended before the admission.

        A sequence that left the queue without admission was in it until its end.
        """
        if self.admitted_at is not None:
            return self.admitted_at - self.arrived_at
        return self.seconds if self.outcome in LEFT_QUEUE else None

    @property
    def time_to_first_token(self) -> float | None:
        """Time from arrival to the first token."""
        return None if self.first_token_at is None else self.first_token_at - self.arrived_at

    @property
    def time_per_output_token(self) -> float | None:
        """Mean time between two tokens; None with fewer than two."""
        if self.first_token_at is None or self.last_token_at is None or self.num_tokens < 2:
            return None
        return (self.last_token_at - self.first_token_at) / (self.num_tokens - 1)

    @property
    def seconds(self) -> float | None:
        """Time from arrival to the end."""
        return None if self.ended_at is None else self.ended_at - self.arrived_at


class Observer(Protocol):
    """Metrics of the engine."""

    def sequence_started(self) -> None: ...

    def sequence_admitted(self, sequence: SequenceStats) -> None: ...

    def prompt_computed(self, sequence: SequenceStats, seconds: float) -> None:
        """Counts a prompt; `seconds` is the time from admission to the end of the prefill."""

    def first_token(self, sequence: SequenceStats) -> None: ...

    def next_tokens(self, count: int, seconds: float) -> None:
        """Counts later tokens of a sequence; `seconds` is the time for each of them."""

    def sequence_ended(self, sequence: SequenceStats) -> None: ...

    def engine_updated(self, stats: EngineStats, step: StepStats | None) -> None: ...

    def step_in_progress(self, seconds: float) -> None:
        """Reports at each heartbeat the age of the current step; 0 between steps."""

    def grammar_asked_for(self, outcome: str, seconds: float) -> None: ...


class Tracer(Protocol):
    """Traces of single sequences; called in the context (ContextVars) of the submitter."""

    def sequence_ended(self, sequence: SequenceStats) -> None: ...


class Meter(Protocol):
    """Usage accounts of callers; called in the context (ContextVars) of the submitter."""

    async def reserve(self, num_prompt_tokens: int, num_new_tokens: int, count: int) -> None:
        """Reserves tokens of `count` sequences; raises ServiceError to refuse them."""

    def give_up(self, num_prompt_tokens: int, count: int) -> None:
        """Undoes a reservation after the engine has refused the sequences."""

    def sequence_ended(self, sequence: SequenceStats) -> None: ...
