"""Client of one grammar process: sends tokens, receives states and token masks.

`ForkServer` starts the processes; `worker.py` runs in them. A process is not trusted: its grammar
may have exploited the compiler. So every message from it is bounded and checked.
"""

import json
import logging
import os
import signal
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.engine.structured_output.mask_file import MAX_MASKS, create_mask_file, read_masks
from src.engine.structured_output.memory_budget import MemoryBudget
from src.engine.structured_output.message_reader import MAX_MESSAGE_BYTES, MessageReader
from src.engine.structured_output.process_link import ProcessLink
from src.engine.structured_output.source import GrammarSource, to_values
from src.errors import InvalidGrammarError, InvalidSchemaError

logger = logging.getLogger(__name__)

ENDED = "the grammar's process has ended: it exceeded a limit of time or memory, or crashed"

SLOW_SECONDS = 0.02
"""A process with a slower last answer gets no wait in a step."""

MAX_CLOSED = 1024
"""Ended sequences in one message, which has to fit into a socket's buffer."""


class ProcessEndedError(Exception):
    """A grammar's process has ended before it answered."""


@dataclass(slots=True, eq=False)
class SequenceState:
    """Last known state of one sequence in a grammar's process.

    Args:
        number: identifies the sequence within the process.
        is_accepting: the sequence may end here.
        is_complete: the sequence must end here: nothing can follow.
        error: the reason why the sequence cannot continue; empty while it can.
        mask: tokens that the grammar allows next, (num_bytes,); None until it is computed.
        num_unanswered: steps that were queued or sent, and are not answered yet.
        is_known: a step of the sequence has been sent to the process.
    """

    number: int
    is_accepting: bool = False
    is_complete: bool = False
    error: str = ""
    mask: NDArray[np.uint8] | None = None
    num_unanswered: int = 0
    is_known: bool = False


class GrammarProcess:
    """A process that compiles one grammar, then computes token masks of its sequences.

    `compile` blocks, and may be called in any thread. After it, only the engine's thread uses the
    process. When the process ends, every sequence in it has an error. The process ends when this
    object is deleted.

    At most one message is unanswered at a time; the next one carries all steps queued meanwhile.
    So the socket has room, unless the process answers without reading; then it is ended. Only
    `compile` waits for the process.

    Args:
        connection: socket to the process.
        budget: memory of all processes.
        num_mask_bytes: size of a token mask.

    Attributes:
        is_slow: its last answer took longer than `SLOW_SECONDS`, or is overdue.
    """

    def __init__(self, connection: Connection, budget: MemoryBudget, num_mask_bytes: int) -> None:
        self.connection = connection
        self._reader = MessageReader(connection.fileno())
        self._num_mask_bytes = num_mask_bytes
        self._link = ProcessLink(connection, create_mask_file(num_mask_bytes))
        self._budget = budget
        self.is_slow = False
        self._sequences: dict[int, SequenceState] = {}
        self._next_number = 0
        self._num_masks_due = 0  # in the answer to the last message
        self._is_busy = False  # the last message is unanswered
        self._steps: list[tuple[int, list[int]]] = []  # queued while the process is busy
        self._closed: list[int] = []  # likewise
        # Not `__del__`: in a cycle of garbage the connection would be closed before that runs.
        weakref.finalize(self, _release, self._link, budget, id(self))

    @property
    def is_alive(self) -> bool:
        """True while the process runs. Thread-safe."""
        return self._link.is_alive

    @property
    def is_open(self) -> bool:
        """True while answers may come; afterwards all sequences have an error."""
        return self._link.is_open

    def compile(self, source: GrammarSource, timeout_seconds: float) -> None:
        """Compiles the grammar.

        Args:
            source: the grammar.
            timeout_seconds: time for this and for each later answer, enforced by the kernel.

        Raises:
            InvalidGrammarError: it is malformed, not supported, or exceeds fixed limits.
            ProcessEndedError: the process exceeded its limits, or crashed.
        """
        try:
            answer = self._start(source, timeout_seconds)
        except (EOFError, OSError, ValueError, LookupError) as error:
            self.end()
            raise ProcessEndedError(ENDED) from error
        if "fault" in answer or "refusal" in answer:
            self.end()
            raise _compile_error(answer)
        self._budget.take(id(self), answer["memory_bytes"])

    def open_sequence(self) -> SequenceState:
        """Returns the state of a new sequence; the first step announces it to the process."""
        self._next_number += 1
        state = SequenceState(self._next_number)
        self._sequences[state.number] = state
        return state

    def close_sequence(self, state: SequenceState) -> None:
        """Removes a sequence that has ended."""
        self._sequences.pop(state.number, None)
        self._steps = [step for step in self._steps if step[0] != state.number]
        if state.is_known:
            self._closed.append(state.number)
            self._flush()

    def advance(self, steps: Iterable[tuple[SequenceState, list[int]]]) -> None:
        """Requests states after more tokens, and the next masks; does not wait."""
        if self._is_busy:
            self.receive()
        for state, token_ids in steps:
            state.mask = None
            state.num_unanswered += 1
            self._steps.append((state.number, token_ids))
        self._flush()

    def receive(self) -> None:
        """Processes the answers that have arrived; does not wait."""
        try:
            if self.is_open:
                for message in self._reader.read():
                    self._handle(json.loads(message))
        except Exception:  # noqa: BLE001 - EOF, or any fault in an untrusted message
            self.end()
        if not self.is_open:
            self.end()  # sequences may have been opened since

    def kill(self) -> None:
        """Ends the process at once. Thread-safe."""
        self._link.kill()

    def pause(self) -> None:
        """Stops the process until `resume`. Thread-safe."""
        self._link.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continues a stopped process. Thread-safe."""
        self._link.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process and gives an error to its sequences."""
        _release(self._link, self._budget, id(self))
        for state in self._sequences.values():
            state.error = state.error or ENDED

    def _start(self, source: GrammarSource, timeout_seconds: float) -> dict[str, Any]:
        """Sends the mask file and the grammar; returns the answer of the compiler."""
        self._link.identify(self._receive()["pid"])
        send_handle(self.connection, self._link.mask_file, None)
        self._send(
            {
                "source": to_values(source),
                "timeout_seconds": timeout_seconds,
                "max_memory_bytes": self._budget.max_process_bytes,
            }
        )
        answer = self._receive()
        os.set_blocking(self.connection.fileno(), False)
        return answer

    def _handle(self, answer: dict[str, Any]) -> None:
        for row in answer.get("states", ()):
            self._update_state(*row)
        if "memory_bytes" in answer and not self._budget.take(id(self), answer["memory_bytes"]):
            self.end()
        if "masks" in answer:
            self._update_masks(answer)

    def _update_state(self, number: int, is_accepting: bool, is_complete: bool, error: str) -> None:
        if (state := self._sequences.get(number)) is not None:
            state.is_accepting, state.is_complete, state.error = is_accepting, is_complete, error
            state.num_unanswered -= 1

    def _update_masks(self, answer: dict[str, Any]) -> None:
        numbers = answer["masks"]
        if len(numbers) > self._num_masks_due:
            raise ValueError(len(numbers))
        masks = read_masks(self._link.mask_file, len(numbers), self._num_mask_bytes)
        for number, mask in zip(numbers, masks, strict=True):
            self._update_mask(number, mask, answer["errors"][str(number)])
        self.is_slow = answer["seconds"] > SLOW_SECONDS
        self._is_busy = False
        self._flush()

    def _update_mask(self, number: int, mask: NDArray[np.uint8], error: str) -> None:
        if (state := self._sequences.get(number)) is not None:
            state.error = state.error or error
            state.mask = None if state.num_unanswered else mask

    def _flush(self) -> None:
        """Sends queued steps and ended sequences, unless the last message is unanswered."""
        if self._is_busy or not (self._steps or self._closed):
            return
        steps, self._steps = self._steps[:MAX_MASKS], self._steps[MAX_MASKS:]
        closed, self._closed = self._closed[:MAX_CLOSED], self._closed[MAX_CLOSED:]
        for number, _ in steps:
            self._sequences[number].is_known = True
        self._is_busy, self._num_masks_due = True, len(steps)
        try:
            self._send({"advance": steps, "close": closed})
        except OSError:  # the connection is closed, or full since the process does not read
            self.end()

    def _send(self, message: dict[str, Any]) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.connection.recv_bytes(MAX_MESSAGE_BYTES))
        return answer


def _compile_error(answer: dict[str, Any]) -> InvalidGrammarError | ProcessEndedError:
    if "fault" in answer:  # a bug of this project
        logger.error("grammar compilation failed: %s", answer["fault"])
        return ProcessEndedError(ENDED)
    refusal = answer["refusal"]
    kind = InvalidSchemaError if refusal["is_schema"] else InvalidGrammarError
    return kind(refusal["message"], tuple(refusal["field"]))


def _release(link: ProcessLink, budget: MemoryBudget, owner: int) -> None:
    link.close()
    budget.give_back(owner)
