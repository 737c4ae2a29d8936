"""The service's side of a grammar process against one that lies, stalls, floods or dies.

The other side is played by the test; a process that sleeps lends its id, as it is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from socket import socketpair

import numpy as np
import pytest

from src.engine.structured_output import process as processes
from src.engine.structured_output.mask_file import (
    MAX_MASKS,
    create_mask_file,
    map_masks,
    read_masks,
)
from src.engine.structured_output.matcher import Grammar, Matcher, find_allowed
from src.engine.structured_output.message_reader import MAX_MESSAGE_BYTES
from src.engine.structured_output.process import GrammarProcess, MemoryBudget
from src.engine.structured_output.source import GrammarSource
from src.engine.structured_output.vocabulary import MaskLayout
from tests.support.grammars import Grammars, allowed_by
from tests.support.tiny_models import create_tokenizer

NUM_BYTES = 8
LAYOUT = MaskLayout(NUM_BYTES, frozenset())
LONG = 30  # seconds


class Peer:
    """The other side of a process: `process` has compiled, and nothing is answered by itself."""

    def __init__(self, process_id: int) -> None:
        ours, theirs = socketpair()
        theirs.settimeout(None)
        self.connection = Connection(theirs.detach())
        self.process = GrammarProcess(Connection(ours.detach()), MemoryBudget(2**30), NUM_BYTES)
        thread = threading.Thread(target=self._start, args=(process_id,))
        thread.start()
        self.process.compile(GrammarSource("regex", "a"), LONG)
        thread.join()

    def _start(self, process_id: int) -> None:
        self.send({"pid": process_id})
        self.masks = map_masks(recv_handle(self.connection), NUM_BYTES)
        self.receive()
        self.send({"memory_bytes": 1})

    def send(self, message: object) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict:
        return json.loads(self.connection.recv_bytes())

    def answer(self, *numbers: int, **changes: object) -> None:
        """Answers as it should, but for the changes."""
        self.send({"states": [[number, False, False, ""] for number in numbers]})
        errors = {str(number): "" for number in numbers}
        answer = {"masks": numbers, "errors": errors, "memory_bytes": 1, "seconds": 0.001}
        self.send(answer | changes)

    def start(self) -> Matcher:
        """Returns a matcher that has asked for its mask."""
        matcher = Grammar(self.process, LAYOUT).start(frozenset())
        matcher.begin()
        return matcher


@pytest.fixture
def peer() -> Iterator[Peer]:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command) as sleeper:
        made = Peer(sleeper.pid)
        yield made
        made.process.end()
        made.connection.close()
        sleeper.kill()


def assert_ended(matcher: Matcher) -> None:
    assert not matcher.process.is_open
    assert "ended" in matcher.state.error
    assert find_allowed([matcher], [False], LONG)[1] == [False]


def test_masks_are_copied_when_their_answer_comes(peer):
    first, second = peer.start(), peer.start()
    assert len(peer.receive()["advance"]) == 1
    peer.masks[0] = 0b101
    peer.answer(1)
    find_allowed([first], [False], LONG)
    assert len(peer.receive()["advance"]) == 1
    peer.masks[0] = 0b110
    peer.answer(2)
    allowed, are_there = find_allowed([first, second], [False, False], LONG)
    peer.masks[0] = 0
    assert are_there == [True, True]
    assert allowed.tolist() == [[0b101] * NUM_BYTES, [0b110] * NUM_BYTES]


def test_a_mask_without_a_token_fails_its_sequence_alone(peer):
    matcher = peer.start()
    peer.answer(1)
    assert find_allowed([matcher], [False], LONG)[1] == [False]
    assert matcher.state.error == "no token may follow"
    assert peer.process.is_open


LIES: dict[str, Callable[[Peer], object]] = {
    "more masks than sequences": lambda peer: peer.answer(1, masks=[1, 1]),
    "more masks than the file holds": lambda peer: peer.answer(1, masks=[1] * (MAX_MASKS + 1)),
    "no list of masks": lambda peer: peer.answer(1, masks=7),
    "an unhashable number": lambda peer: peer.answer(1, masks=[[1]]),
    "no errors": lambda peer: peer.answer(1, errors={}),
    "seconds that are none": lambda peer: peer.answer(1, seconds="soon"),
    "memory that is none": lambda peer: peer.answer(1, memory_bytes="little"),
    "a state of one part": lambda peer: peer.send({"states": [[1]]}),
    "no object": lambda peer: peer.send([1]),
    "no JSON": lambda peer: peer.connection.send_bytes(b"{"),
    "a deep object": lambda peer: peer.connection.send_bytes(b"[" * 100_000),
    "a length beyond the limit": lambda peer: os.write(
        peer.connection.fileno(), (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")
    ),
    "a negative length": lambda peer: os.write(peer.connection.fileno(), b"\xff" * 12),
}


@pytest.mark.parametrize("name", LIES)
def test_a_process_that_lies_is_ended(peer, name):
    matcher = peer.start()
    LIES[name](peer)
    find_allowed([matcher], [False], LONG)
    assert_ended(matcher)


@pytest.mark.parametrize("has_states", [False, True])
def test_a_process_that_dies_after_it_has_written_masks_fails_its_sequences(peer, has_states):
    matcher = peer.start()
    peer.masks[0] = 255
    if has_states:
        peer.send({"states": [[1, False, False, ""]]})
    peer.connection.close()
    find_allowed([matcher], [False], LONG)
    assert_ended(matcher)


def test_an_answer_of_a_process_that_has_died_since_is_taken(peer):
    matcher = peer.start()
    peer.masks[0] = 255
    peer.answer(1)
    peer.connection.close()
    assert find_allowed([matcher], [False], LONG)[1] == [True]
    matcher.process.receive()
    assert not matcher.process.is_open


def test_a_part_of_a_message_is_not_waited_for(peer):
    matcher = peer.start()
    answer = json.dumps({"states": [[1, True, True, ""]]}).encode()
    message = len(answer).to_bytes(4, "big") + answer
    for byte in message:
        assert not matcher.is_answered
        os.write(peer.connection.fileno(), bytes([byte]))
        peer.process.receive()
    assert matcher.is_complete


def test_a_process_that_sends_without_end_delays_a_step_once(peer):
    matcher = peer.start()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer.send({})

    thread = threading.Thread(target=flood)
    thread.start()
    started = time.monotonic()
    _, are_there = find_allowed([matcher], [False], 0.1)
    assert time.monotonic() - started < LONG
    assert are_there == [False]
    assert matcher.process.is_slow
    peer.process.end()
    thread.join()


@pytest.mark.timeout(60)
def test_sending_to_a_process_that_answers_without_reading_does_not_block(peer):
    matcher = peer.start()
    for _ in range(5000):
        peer.answer(1)
        peer.process.advance([(matcher.state, [1] * 100)])
        if not peer.process.is_open:
            break
    assert_ended(matcher)


@pytest.mark.skipif(sys.platform != "linux", reason="files are sealed on Linux alone")
def test_a_process_cannot_change_the_size_of_its_file():
    descriptor = create_mask_file(NUM_BYTES)
    for num_bytes in (0, 2 * MAX_MASKS * NUM_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, num_bytes)
    os.close(descriptor)


def test_masks_are_read_where_the_system_has_no_files_in_memory(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = create_mask_file(NUM_BYTES)
    masks = map_masks(os.dup(descriptor), NUM_BYTES)
    masks[1] = 3
    assert np.array_equal(read_masks(descriptor, 2, NUM_BYTES), masks[:2])
    os.ftruncate(descriptor, NUM_BYTES)
    with pytest.raises(ValueError, match="reshape"):
        read_masks(descriptor, 2, NUM_BYTES)
    os.close(descriptor)


def test_more_sequences_than_the_file_holds_are_answered_in_turns(monkeypatch):
    monkeypatch.setattr(processes, "MAX_MASKS", 3)
    monkeypatch.setattr(processes, "MAX_CLOSED", 2)
    tokenizer = create_tokenizer().backend_tokenizer
    grammar = Grammars(tokenizer, tokenizer.get_vocab_size()).compile(GrammarSource("regex", "a+"))
    expected = allowed_by(grammar.start(frozenset()))
    matchers = [grammar.start(frozenset()) for _ in range(8)]
    allowed, are_there = find_allowed(matchers, [False] * 8, timeout=None)
    assert all(are_there)
    assert len({row.tobytes() for row in allowed}) == 1
    for matcher in matchers:
        matcher.close()
    assert allowed_by(grammar.start(frozenset())) == expected


def test_memory_that_masks_take_is_counted():
    tokenizer = create_tokenizer().backend_tokenizer
    grammars = Grammars(tokenizer, 2**18)
    grammar = grammars.compile(GrammarSource("regex", "a+"))
    before = grammars.server._budget.num_taken
    matchers = [grammar.start(frozenset()) for _ in range(200)]
    find_allowed(matchers, [False] * len(matchers), timeout=None)
    find_allowed([grammar.start(frozenset())], [False], timeout=None)
    assert grammars.server._budget.num_taken - before > len(matchers) * 2**18 // 8
