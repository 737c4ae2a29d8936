"""The service's side of the processes in which grammars are compiled and followed.

A `ForkServer` starts a `GrammarProcess` for each grammar. `worker.py` is what runs in them.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess  # nosec - starts this project's own module
import sys
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from socket import SHUT_RDWR, socket, socketpair
from typing import Any

import numpy as np
from numpy.typing import NDArray

import src
from src.engine.structured_output.mask_file import MAX_MASKS, create_mask_file, read_masks
from src.engine.structured_output.message_reader import MAX_MESSAGE_BYTES, MessageReader
from src.engine.structured_output.source import GrammarSource, to_values
from src.engine.structured_output.vocabulary import MaskLayout, UnreadableTokenizerError
from src.errors import InvalidGrammarError, InvalidSchemaError

logger = logging.getLogger(__name__)

WORKER = "src.engine.structured_output.worker"
ENDED = "the grammar's process has ended: it crossed a limit of time or memory, or crashed"

PROCESS_SHARE = 4
"""One process may take this part of the memory of all."""

SLOW_SECONDS = 0.02
"""Steps do not wait for a process whose last answer took longer."""

MAX_CLOSED = 1024
"""Ended sequences of one message, which is to fit into a socket."""

END_SECONDS = 2
"""How long the fork server may take to end before it is killed."""


class ProcessEndedError(Exception):
    """A grammar's process has ended before it answered."""


@dataclass(slots=True, eq=False)
class SequenceState:
    """What a grammar's process said of one sequence last.

    Args:
        number: names the sequence within the process.
        is_accepting: it may end here.
        is_complete: it must, as nothing can follow.
        error: why it cannot go on; empty while it can.
        mask: tokens that the grammar allows next, (num_bytes,); None until it is computed.
        num_unanswered: messages about it without an answer.
    """

    number: int
    is_accepting: bool = False
    is_complete: bool = False
    error: str = ""
    mask: NDArray[np.uint8] | None = None
    num_unanswered: int = 0
    is_known: bool = False  # whether the process was told of it


class MemoryBudget:
    """Memory that all grammar processes may take together. Thread-safe.

    Args:
        max_bytes: in all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}

    @property
    def num_taken(self) -> int:
        """Bytes."""
        with self._lock:
            return sum(self._taken.values())

    @property
    def largest(self) -> int | None:
        """The process that takes most."""
        with self._lock:
            return max(self._taken, key=self._taken.__getitem__, default=None)

    def take(self, owner: int, num_bytes: int) -> bool:
        """Records what a process takes; False: all take too much, and this one most."""
        with self._lock:
            self._taken[owner] = num_bytes
            taken = self._taken.values()
            return sum(taken) <= self.max_bytes or num_bytes < max(taken)

    def give_back(self, owner: int) -> None:
        """Forgets a process that has ended."""
        with self._lock:
            self._taken.pop(owner, None)


class _Link:
    """The descriptors of a grammar process. Thread-safe.

    Args:
        connection: to the process, over a socket.
        mask_file: descriptor of the file in which it writes masks.
    """

    def __init__(self, connection: Connection, mask_file: int) -> None:
        self.connection = connection
        self.mask_file = mask_file
        self.is_open = True
        self._process: int | None = None  # a descriptor, which never names another process
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        with self._lock:
            if self._process is None or not self.is_open:
                return self.is_open
            ended, _, _ = select.select([self._process], [], [], 0)
            return not ended

    def identify(self, process_id: int) -> None:
        """Takes the id of the process, which runs now."""
        # Without such descriptors (macOS, old sandboxes) its own timer ends a busy process.
        with contextlib.suppress(AttributeError, OSError):
            self._process = os.pidfd_open(process_id)

    def kill(self) -> None:
        """Ends the process; a thread that waits for its answer finds the connection at its end."""
        with self._lock:
            self._kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process runs."""
        with self._lock:
            self._signal(number)

    def close(self) -> None:
        """Ends the process and closes the descriptors."""
        with self._lock:
            self._kill()
            if self.is_open:
                self.is_open = False
                self.connection.close()
                os.close(self.mask_file)
                if self._process is not None:
                    os.close(self._process)

    def _kill(self) -> None:
        if not self.is_open:
            return
        stream = socket(fileno=os.dup(self.connection.fileno()))
        with stream, contextlib.suppress(OSError):  # the process may have ended
            stream.shutdown(SHUT_RDWR)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_open and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)


class GrammarProcess:
    """A process that compiles one grammar, then follows the sequences that it constrains.

    `compile` blocks until it is done, and may be called in any thread; after it the engine's thread
    alone uses the process. When the process ends, every sequence in it has an error. The process
    ends when this object is deleted.

    A message is sent when the one before it was answered, with all that has come up meanwhile. So
    the process always reads; one that does not, but answers, is ended. Nothing but `compile` waits
    for the process.

    Args:
        connection: to the process, over a socket.
        budget: of the memory of all processes.
        num_mask_bytes: of a token mask.

    Attributes:
        is_slow: its last answer took longer than `SLOW_SECONDS`, or one is overdue.
    """

    def __init__(self, connection: Connection, budget: MemoryBudget, num_mask_bytes: int) -> None:
        self.connection = connection
        self._reader = MessageReader(connection.fileno())
        self._num_mask_bytes = num_mask_bytes
        self._link = _Link(connection, create_mask_file(num_mask_bytes))
        self._budget = budget
        self.is_slow = False
        self._sequences: dict[int, SequenceState] = {}
        self._next_number = 0
        self._num_asked = 0  # masks that the next answer may bring
        self._is_busy = False
        self._steps: list[tuple[int, list[int]]] = []  # that wait while it is busy
        self._closed: list[int] = []  # likewise
        # Not `__del__`: in a cycle of garbage the connection would be closed before that runs.
        weakref.finalize(self, _release, self._link, budget, id(self))

    @property
    def is_alive(self) -> bool:
        """Whether it runs. May be asked in any thread."""
        return self._link.is_alive

    @property
    def is_open(self) -> bool:
        """Whether answers may come; where not, all its sequences have an error."""
        return self._link.is_open

    def compile(self, source: GrammarSource, timeout_seconds: float) -> None:
        """Compiles the grammar.

        Args:
            source: the grammar.
            timeout_seconds: for this, and later for each answer; then the kernel ends the process.

        Raises:
            InvalidGrammarError: it is malformed, not supported, or exceeds fixed limits.
            ProcessEndedError: the process crossed its limits, or crashed.
        """
        try:
            self._link.identify(self._receive()["pid"])
            send_handle(self.connection, self._link.mask_file, None)
            self._send(
                {
                    "source": to_values(source),
                    "timeout_seconds": timeout_seconds,
                    "max_memory_bytes": self._budget.max_bytes // PROCESS_SHARE,
                }
            )
            answer = self._receive()
            os.set_blocking(self.connection.fileno(), False)
        except (EOFError, OSError, ValueError, LookupError) as error:
            self.end()
            raise ProcessEndedError(ENDED) from error
        if "fault" in answer:  # one of this project
            logger.error("a grammar could not be compiled: %s", answer["fault"])
            self.end()
            raise ProcessEndedError(ENDED)
        if "refusal" in answer:
            self.end()
            refusal = answer["refusal"]
            kind = InvalidSchemaError if refusal["is_schema"] else InvalidGrammarError
            raise kind(refusal["message"], tuple(refusal["field"]))
        self._budget.take(id(self), answer["memory_bytes"])

    def open_sequence(self) -> SequenceState:
        """Returns the state of a new sequence, which the process does not know of yet."""
        self._next_number += 1
        state = SequenceState(self._next_number)
        self._sequences[state.number] = state
        return state

    def close_sequence(self, state: SequenceState) -> None:
        """Forgets a sequence that has ended."""
        self._sequences.pop(state.number, None)
        self._steps = [step for step in self._steps if step[0] != state.number]
        if state.is_known:
            self._closed.append(state.number)
            self._flush()

    def advance(self, steps: Iterable[tuple[SequenceState, list[int]]]) -> None:
        """Asks for sequences' states after more tokens, and for their masks; does not wait."""
        if self._is_busy:
            self.receive()
        for state, token_ids in steps:
            state.mask = None
            state.num_unanswered += 1
            self._steps.append((state.number, token_ids))
        self._flush()

    def receive(self) -> None:
        """Takes the answers that have come; does not wait."""
        try:
            if self.is_open:
                for message in self._reader.read():
                    self._take(json.loads(message))
        except Exception:  # noqa: BLE001 - it has ended, or answers nonsense of any kind
            self.end()
        if not self.is_open:
            self.end()  # for sequences that were opened since

    def kill(self) -> None:
        """Ends the process at once, whatever it does. May be called in any thread."""
        self._link.kill()

    def pause(self) -> None:
        """Stops the process until `resume`. May be called in any thread."""
        self._link.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a stopped process go on. May be called in any thread."""
        self._link.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process, and what waits for it: its sequences cannot go on."""
        _release(self._link, self._budget, id(self))
        for state in self._sequences.values():
            state.error = state.error or ENDED

    def _take(self, answer: dict[str, Any]) -> None:
        for row in answer.get("states", ()):
            self._take_state(*row)
        if "memory_bytes" in answer and not self._budget.take(id(self), answer["memory_bytes"]):
            self.end()
        if "masks" in answer:
            self._take_masks(answer)

    def _take_masks(self, answer: dict[str, Any]) -> None:
        numbers = answer["masks"]
        if len(numbers) > self._num_asked:
            raise ValueError(len(numbers))
        masks = read_masks(self._link.mask_file, len(numbers), self._num_mask_bytes)
        for number, mask in zip(numbers, masks, strict=True):
            self._take_mask(number, mask, answer["errors"][str(number)])
        self.is_slow = answer["seconds"] > SLOW_SECONDS
        self._is_busy = False
        self._flush()

    def _take_state(self, number: int, is_accepting: bool, is_complete: bool, error: str) -> None:
        if (state := self._sequences.get(number)) is not None:
            state.is_accepting, state.is_complete, state.error = is_accepting, is_complete, error
            state.num_unanswered -= 1

    def _take_mask(self, number: int, mask: NDArray[np.uint8], error: str) -> None:
        if (state := self._sequences.get(number)) is not None:
            state.error = state.error or error
            state.mask = None if state.num_unanswered else mask

    def _flush(self) -> None:
        """Sends what has come up, if the process has answered the last message."""
        if self._is_busy or not (self._steps or self._closed):
            return None
        steps, self._steps = self._steps[:MAX_MASKS], self._steps[MAX_MASKS:]
        closed, self._closed = self._closed[:MAX_CLOSED], self._closed[MAX_CLOSED:]
        message = {"advance": steps, "close": closed}
        for number, _ in steps:
            self._sequences[number].is_known = True
        self._is_busy, self._num_asked = True, len(steps)
        try:
            if self.is_open:
                return self._send(message)
        except OSError:
            pass
        return self.end()

    def _send(self, message: dict[str, Any]) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.connection.recv_bytes(MAX_MESSAGE_BYTES))
        return answer


def _release(link: _Link, budget: MemoryBudget, owner: int) -> None:
    link.close()
    budget.give_back(owner)


class ForkServer:
    """Starts grammar processes, each a fork of one that has read the tokenizer.

    Args:
        tokenizer: the JSON of the model's tokenizer.
        vocab_size: the model's.
        max_memory_bytes: that all processes may take together.

    Raises:
        UnreadableTokenizerError: llguidance does not know this kind of tokenizer.
    """

    def __init__(self, tokenizer: str, vocab_size: int, max_memory_bytes: int) -> None:
        self._start_message = json.dumps([tokenizer, vocab_size]).encode()
        self._budget = MemoryBudget(max_memory_bytes)
        self._processes: weakref.WeakSet[GrammarProcess] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards the next two
        self._control, self.layout = self._start()

    @property
    def is_low_on_memory(self) -> bool:
        """Whether another process might take more than is left."""
        limit = self._budget.max_bytes
        return self._budget.num_taken > limit - limit // PROCESS_SHARE

    def kill_largest(self) -> None:
        """Ends the process that takes most memory; its sequences fail."""
        largest = self._budget.largest
        for process in list(self._processes):
            if id(process) == largest:
                process.kill()
                self._budget.give_back(id(process))

    def fork(self) -> GrammarProcess:
        """Starts a process; restarts the server first if it has ended. Thread-safe."""
        ours, theirs = socketpair()
        with theirs, self._lock:
            try:
                send_handle(self._control, theirs.fileno(), None)
            except OSError:
                self._end()
                self._control, _ = self._start()
                send_handle(self._control, theirs.fileno(), None)
        process = GrammarProcess(Connection(ours.detach()), self._budget, self.layout.num_bytes)
        self._processes.add(process)
        return process

    def close(self) -> None:
        """Ends the server; grammar processes end with their connections."""
        self._end()

    def _start(self) -> tuple[Connection, MaskLayout]:
        ours, theirs = socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 # nosec - fixed arguments
                [sys.executable, "-m", WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what a library prints when it aborts
                start_new_session=True,
            )
        control = Connection(ours.detach())
        self._end = weakref.finalize(self, _end_server, control, process)
        control.send_bytes(self._start_message)
        answer = json.loads(control.recv_bytes())
        if "error" in answer:
            self._end()
            raise UnreadableTokenizerError(answer["error"])
        return control, MaskLayout(answer["num_bytes"], frozenset(answer["special"]))


def _end_server(control: Connection, process: "subprocess.Popen[bytes]") -> None:
    control.close()  # the server ends when it finds that out
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
        return
    process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    """The environment of the processes: no secrets, and this package on the path."""
    folder = str(Path(src.__file__).parent.parent)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
