"""Fork server of grammar processes: loads the tokenizer once, forks for each grammar.

`worker.py` runs in the server and in its forks.
"""

import contextlib
import json
import os
import subprocess  # nosec - starts this project's own module
import sys
import threading
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from socket import socketpair

import src
from src.engine.structured_output.grammar_process import GrammarProcess
from src.engine.structured_output.memory_budget import MemoryBudget
from src.engine.structured_output.vocabulary import MaskLayout, UnreadableTokenizerError

WORKER = "src.engine.structured_output.worker"

END_SECONDS = 2
"""Grace period of the fork server before it is killed."""


class ForkServer:
    """Starts grammar processes, which share the memory of the tokenizer copy-on-write.

    Args:
        tokenizer: the JSON of the model's tokenizer.
        vocab_size: size of the model's vocabulary.
        max_memory_bytes: limit on the memory of all grammar processes.

    Raises:
        UnreadableTokenizerError: llguidance does not support this kind of tokenizer.
    """

    def __init__(self, tokenizer: str, vocab_size: int, max_memory_bytes: int) -> None:
        self._start_message = json.dumps([tokenizer, vocab_size]).encode()
        self._budget = MemoryBudget(max_memory_bytes)
        self._processes: weakref.WeakSet[GrammarProcess] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards the next two
        self._control, self.layout = self._start()

    @property
    def is_low_on_memory(self) -> bool:
        """True if another process could exceed the memory limit."""
        return self._budget.is_low

    def kill_largest(self) -> None:
        """Ends the process with the most memory; its sequences fail."""
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
        """Ends the server; grammar processes end when their connections close."""
        self._end()

    def _start(self) -> tuple[Connection, MaskLayout]:
        ours, theirs = socketpair()
        with theirs:
            process = _start_worker(theirs.fileno())
        control = Connection(ours.detach())
        self._end = weakref.finalize(self, _end_server, control, process)
        control.send_bytes(self._start_message)
        answer = json.loads(control.recv_bytes())
        if "error" in answer:
            self._end()
            raise UnreadableTokenizerError(answer["error"])
        return control, MaskLayout(answer["num_bytes"], frozenset(answer["special"]))


def _start_worker(descriptor: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 # nosec - fixed arguments
        [sys.executable, "-m", WORKER, str(descriptor)],
        pass_fds=[descriptor],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # messages of a library that aborts
        start_new_session=True,
    )


def _end_server(control: Connection, process: "subprocess.Popen[bytes]") -> None:
    control.close()  # the server reads EOF and ends
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
        return
    process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    """Returns the processes' environment: no secrets, and this package on the path."""
    folder = str(Path(src.__file__).parent.parent)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
