"""Main module of the fork server and of its forks, the grammar processes (`python -m` this file).

A request's grammar is hostile input for a recursive compiler in native code: it can take unbounded
time or memory, hold the GIL, or overflow the stack. So each grammar has a process of its own. It
compiles the grammar and then computes the token masks of all its sequences. The kernel enforces
limits of time and memory.

The fork server reads the tokenizer once; a fork takes milliseconds. All processes end with the
service, as their sockets then close.
"""

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np
import psutil
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from src.engine.structured_output.compiler import compile_grammar
from src.engine.structured_output.mask_file import map_masks
from src.engine.structured_output.source import GrammarSource, from_values
from src.engine.structured_output.vocabulary import UnreadableTokenizerError, Vocabulary
from src.errors import InvalidGrammarError, InvalidSchemaError

NICENESS = 0
"""The model's threads and the event loop come before grammars."""


def main() -> None:
    """Runs the fork server on a socket; its descriptor is the first argument."""
    _prepare_process()
    control = Connection(int(sys.argv[1]))
    vocabulary = _load_vocabulary(control)
    if vocabulary is None:
        return
    gc.collect()
    gc.freeze()  # collecting would touch, and so copy, the memory shared with the children
    gc.disable()
    _serve_forks(control, vocabulary)


def _prepare_process() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the socket's end ends it
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)


def _load_vocabulary(control: Connection) -> Vocabulary | None:
    """Reads the tokenizer and answers with its mask layout, or with an error."""
    try:
        vocabulary = Vocabulary(*json.loads(control.recv_bytes()))
    except UnreadableTokenizerError as error:
        _send(control, {"error": str(error)})
        return None
    layout = vocabulary.layout
    special = sorted(layout.special_token_ids)
    _send(control, {"num_bytes": layout.num_bytes, "special": special})
    return vocabulary


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _serve_forks(control: Connection, vocabulary: Vocabulary) -> None:
    while True:
        try:
            descriptor = recv_handle(control)
        except (EOFError, OSError):
            return
        if os.fork() == 0:
            control.close()
            try:
                GrammarServer(Connection(descriptor), vocabulary).run()
            finally:
                os._exit(0)
        os.close(descriptor)


class GrammarServer:
    """Compiles one grammar and advances its sequences until the connection closes.

    Messages are JSON. The service sends a file for the masks after the first message.

    Args:
        connection: socket to the service.
        vocabulary: vocabulary of the model.
    """

    def __init__(self, connection: Connection, vocabulary: Vocabulary) -> None:
        self._connection = connection
        self._vocabulary = vocabulary
        self._matchers: dict[int, LLMatcher] = {}
        self._process = psutil.Process()
        self._num_shared_bytes = self._process.memory_info().rss

    def run(self) -> None:
        """Answers messages until the service closes the connection."""
        try:
            _send(self._connection, {"pid": os.getpid()})
            masks = map_masks(recv_handle(self._connection), self._vocabulary.layout.num_bytes)
            start = json.loads(self._connection.recv_bytes())
            _limit_memory(start["max_memory_bytes"])
            grammar = self._compile(from_values(start["source"]), start["timeout_seconds"])
            while grammar is not None:
                message = json.loads(self._connection.recv_bytes())
                self._set_timer(start["timeout_seconds"])
                self._answer(grammar, message, masks)
                self._set_timer(0)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass

    def _compile(self, source: GrammarSource, timeout_seconds: float) -> LLMatcher | None:
        self._set_timer(timeout_seconds)
        try:
            grammar = compile_grammar(self._vocabulary, source)
        except InvalidGrammarError as error:
            is_schema = isinstance(error, InvalidSchemaError)
            refusal = {"message": str(error), "field": error.field, "is_schema": is_schema}
            _send(self._connection, {"refusal": refusal})
            return None
        except Exception as error:  # noqa: BLE001 - the service logs it and refuses the grammar
            frame = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} in {frame.name}, line {frame.lineno}"
            _send(self._connection, {"fault": fault})
            return None
        self._set_timer(0)
        _send(self._connection, {"memory_bytes": self._private_bytes()})
        return grammar

    def _set_timer(self, seconds: float) -> None:
        """Starts a timer that ends the process; 0 stops it."""
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM has no handler: it terminates

    def _answer(
        self, grammar: LLMatcher, message: dict[str, Any], masks: NDArray[np.uint8]
    ) -> None:
        """Sends the sequences' states at once, then their masks."""
        started = time.monotonic()
        for number in message["close"]:
            self._matchers.pop(number, None)
        states = [self._advance(grammar, *step) for step in message["advance"]]
        _send(self._connection, {"states": states})
        numbers = [number for number, _, is_complete, error in states if not (is_complete or error)]
        self._compute_masks(numbers, masks)
        errors = {number: self._matchers[number].get_error() for number in numbers}
        answer = {"masks": numbers, "errors": errors, "memory_bytes": self._private_bytes()}
        _send(self._connection, answer | {"seconds": time.monotonic() - started})

    def _advance(
        self, grammar: LLMatcher, number: int, token_ids: list[int]
    ) -> tuple[int, bool, bool, str]:
        """Returns a sequence's number, `is_accepting`, `is_complete`, and its error or ""."""
        if number not in self._matchers:
            self._matchers[number] = grammar.deep_copy()
        matcher = self._matchers[number]
        matcher.consume_tokens(token_ids)
        is_accepting = matcher.is_accepting()
        return number, is_accepting, is_accepting and matcher.is_stopped(), matcher.get_error()

    def _compute_masks(self, numbers: list[int], masks: NDArray[np.uint8]) -> None:
        """Writes the sequences' masks into the first rows of (MAX_MASKS, num_bytes).

        The engine reads them only after the answer.
        """
        if not numbers:
            return
        masks[: len(numbers)] = 0
        rows = [(self._matchers[number], row) for row, number in enumerate(numbers)]
        fill_next_token_bitmask_par(self._vocabulary.executor, rows, masks.view(np.int32))

    def _private_bytes(self) -> int:
        """Returns the memory that the process has taken since the fork."""
        return max(0, self._process.memory_info().rss - self._num_shared_bytes)


def _limit_memory(max_bytes: int) -> None:
    """Limits the memory that the process may take from now on; beyond it the allocator aborts."""
    data = getattr(psutil.Process().memory_info(), "data", 0)  # Linux only
    stacks = (os.cpu_count() or 1) * 8 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (data + max_bytes + stacks,) * 2)


if __name__ == "__main__":
    main()
