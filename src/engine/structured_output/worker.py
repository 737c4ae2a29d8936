"""The processes in which grammars are compiled and followed: `python -m` this file.

A request's grammar is hostile input for a recursive compiler in native code: it can take any time,
any memory, hold the GIL, or overflow the stack. So each grammar has a process of its own, which
compiles it and then computes the token masks of all sequences that it constrains. The kernel ends
it at its limits of time and memory; nothing else is in it.

The first process is a fork server: it reads the tokenizer once, and forks for each grammar, which
takes milliseconds. All of them end when the service does, as their sockets then close.
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
from numpy.typing import NDArray

from src.engine.structured_output.compiler import compile_grammar
from src.engine.structured_output.mask_file import map_masks
from src.engine.structured_output.source import GrammarSource, from_values
from src.engine.structured_output.vocabulary import UnreadableTokenizerError, Vocabulary
from src.errors import InvalidGrammarError, InvalidSchemaError

NICENESS = 0
"""The model's threads and the event loop come before grammars."""


def main() -> None:
    """Serves as the fork server over the socket whose descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the service ends by itself
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    control = Connection(int(sys.argv[1]))
    description, vocab_size = json.loads(control.recv_bytes())
    try:
        vocabulary = Vocabulary(description, vocab_size)
    except UnreadableTokenizerError as error:
        control.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    layout = vocabulary.layout
    control.send_bytes(
        json.dumps(
            {"num_bytes": layout.num_bytes, "special": sorted(layout.special_token_ids)}
        ).encode()
    )
    del description
    gc.collect()
    gc.freeze()  # collecting would touch, and so copy, the memory shared with the children
    gc.disable()
    _serve_forks(control, vocabulary)


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
    """Compiles one grammar and follows its sequences; ends when the connection does.

    Messages are JSON. Masks are written in a file that comes after the greeting.

    Args:
        connection: to the service.
        vocabulary: of the model.
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
            self._send({"pid": os.getpid()})
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
            self._send({"refusal": refusal})
            return None
        except Exception as error:  # noqa: BLE001 - the service logs it, and refuses the grammar
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._send({"fault": f"{type(error).__name__} in {frame.name}, line {frame.lineno}"})
            return None
        self._set_timer(0)
        self._send({"memory_bytes": self._num_own_bytes()})
        return grammar

    def _set_timer(self, seconds: float) -> None:
        """Ends the process after so many seconds, whatever it does then; 0 never."""
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM has no handler: it terminates

    def _answer(
        self, grammar: LLMatcher, message: dict[str, Any], masks: NDArray[np.uint8]
    ) -> None:
        """Sends the sequences' states at once, and their masks when these are computed."""
        started = time.monotonic()
        for number in message["close"]:
            self._matchers.pop(number, None)
        states = [self._advance(grammar, *one) for one in message["advance"]]
        self._send({"states": states})
        numbers = [number for number, _, is_complete, error in states if not (is_complete or error)]
        self._compute_masks(numbers, masks)
        errors = {number: self._matchers[number].get_error() for number in numbers}
        answer = {"masks": numbers, "errors": errors, "memory_bytes": self._num_own_bytes()}
        self._send(answer | {"seconds": time.monotonic() - started})

    def _advance(
        self, grammar: LLMatcher, number: int, token_ids: list[int]
    ) -> tuple[int, bool, bool, str]:
        """Returns a sequence's number, whether it may end, whether it must, and its error or ""."""
        if number not in self._matchers:
            self._matchers[number] = grammar.deep_copy()
        matcher = self._matchers[number]
        matcher.consume_tokens(token_ids)
        is_accepting = matcher.is_accepting()
        return number, is_accepting, is_accepting and matcher.is_stopped(), matcher.get_error()

    def _compute_masks(self, numbers: list[int], masks: NDArray[np.uint8]) -> None:
        """Writes which tokens may come next in the first masks, (at least len(numbers), num_bytes).

        The engine does not read them before it has the answer.
        """
        if not numbers:
            return
        masks[: len(numbers)] = 0
        self._vocabulary.executor.unsafe_compute_mask_ptr(
            [(self._matchers[number], row) for row, number in enumerate(numbers)],
            masks.ctypes.data,
            masks.shape[1],
            len(numbers),
        )

    def _num_own_bytes(self) -> int:
        """Returns the memory that the process took since it was forked."""
        return max(0, self._process.memory_info().rss - self._num_shared_bytes)

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send_bytes(json.dumps(message).encode())


def _limit_memory(max_bytes: int) -> None:
    """Lets the process take so many bytes more than it has; at more its allocator aborts."""
    data = getattr(psutil.Process().memory_info(), "data", 0)  # known on Linux
    stacks = (os.cpu_count() or 1) * 8 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (data + max_bytes + stacks,) * 2)


if __name__ == "__main__":
    main()
