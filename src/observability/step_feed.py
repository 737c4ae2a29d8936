"""Steps of the engine for live views: counts alone, no ids, texts or callers.

Nothing is recorded without listeners. Each listener has a bounded record, so a slow one loses the
oldest steps.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from src.engine.request import EngineStats, StepStats

MAX_LISTENERS = 8
MAX_STEPS = 256
"""Steps kept for a listener between two looks."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step.

    Args:
        number: of the step since the start; gaps are steps that were not kept.
        milliseconds: duration.
        num_sequences: computed sequences.
        num_decoding: sequences among them that continued their answers.
        num_prefill_tokens: computed tokens of prompts.
        num_drafted: drafted tokens.
        num_accepted: drafted tokens that were accepted.
    """

    number: int
    milliseconds: float
    num_sequences: int
    num_decoding: int
    num_prefill_tokens: int
    num_drafted: int
    num_accepted: int


@dataclass(slots=True)
class StepFeed:
    """Hands the records of steps to all listeners. Used in the event loop alone.

    Args:
        stats: state of the engine after the last update.
    """

    stats: EngineStats = field(default_factory=EngineStats)
    _num_steps: int = 0
    _num_decoding: int = 0
    _listeners: list[deque[StepRecord]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self._listeners) >= MAX_LISTENERS

    @contextmanager
    def listen(self) -> Iterator[deque[StepRecord]]:
        """Yields a queue that gets the records of steps until the context ends."""
        listener: deque[StepRecord] = deque(maxlen=MAX_STEPS)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners[:] = [other for other in self._listeners if other is not listener]

    def sequence_decoded(self) -> None:
        """Counts a sequence that continued its answer in the step that comes next."""
        self._num_decoding += 1

    def step_ended(self, stats: EngineStats, step: StepStats | None) -> None:
        """Records a step; None is a change between steps."""
        self.stats = stats
        num_decoding, self._num_decoding = self._num_decoding, 0
        if step is None:
            return
        self._num_steps += 1
        if self._listeners:
            record = StepRecord(
                self._num_steps,
                round(1000 * step.seconds, 3),
                step.num_sequences,
                num_decoding,
                max(0, step.num_tokens - step.num_drafted - num_decoding),
                step.num_drafted,
                step.num_accepted,
            )
            for listener in self._listeners:
                listener.append(record)
