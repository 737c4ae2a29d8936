"""`GrammarProcess` against a process that sends false messages, stalls, floods or ends.

The test itself is the peer. A sleeping process provides the process id, which is killed.
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

from src.engine.structured_output import grammar_process
from src.engine.structured_output.grammar_process import GrammarProcess
from src.engine.structured_output.mask_file import (
    MAX_MASKS,
    create_mask_file,
    map_masks,
    read_masks,
)
from src.engine.structured_output.matcher import Grammar, Matcher, find_allowed
from src.engine.structured_output.memory_budget import MemoryBudget
from src.engine.structured_output.message_reader import MAX_MESSAGE_BYTES
from src.engine.structured_output.source import GrammarSource
from src.engine.structured_output.vocabulary import MaskLayout
from tests.support.grammars import Grammars, allowed_by
from tests.support.tiny_models import create_tokenizer

NUM_BYTES = 8
LAYOUT = MaskLayout(NUM_BYTES, frozenset())
LONG = 30  # seconds


class Peer:
    """Peer of `process`, which has compiled; it answers only when a test says so."""

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
        """Sends a correct answer with changes."""
        self.send({"states": [[number, False, False, ""] for number in numbers]})
        errors = {str(number): "" for number in numbers}
        answer = {"masks": numbers, "errors": errors, "memory_bytes": 1, "seconds": 0.001}
        self.send(answer | changes)

    def start(self) -> Matcher:
        """Returns a matcher that has requested its mask."""
        matcher = Grammar(self.process, LAYOUT).start(frozenset())
        matcher.begin()
        return matcher


@pytest.fixture
def peer() -> Iterator[Peer]:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command) as sleeper:
        peer = Peer(sleeper.pid)
        yield peer
        peer.process.end()
        peer.connection.close()
        sleeper.kill()


def assert_ended(matcher: Matcher) -> None:
    assert not matcher.process.is_open
    assert "ended" in matcher.state.error
    assert find_allowed([matcher], [False], LONG)[1] == [False]


def test_masks_are_copied_when_the_answer_comes(peer):
    first, second = peer.start(), peer.start()
    assert len(peer.receive()["advance"]) == 1
    peer.masks[0] = 0b101
    peer.answer(1)
    find_allowed([first], [False], LONG)
    assert len(peer.receive()["advance"]) == 1
    peer.masks[0] = 0b110
    peer.answer(2)
    allowed, is_filled = find_allowed([first, second], [False, False], LONG)
    peer.masks[0] = 0
    assert is_filled == [True, True]
    assert allowed.tolist() == [[0b101] * NUM_BYTES, [0b110] * NUM_BYTES]


def test_an_empty_mask_fails_only_its_sequence(peer):
    matcher = peer.start()
    peer.answer(1)
    assert find_allowed([matcher], [False], LONG)[1] == [False]
    assert matcher.state.error == "no token may follow"
    assert peer.process.is_open


FALSE_MESSAGES: dict[str, Callable[[Peer], object]] = {
    "more masks than sequences": lambda peer: peer.answer(1, masks=[1, 1]),
    "more masks than the file holds": lambda peer: peer.answer(1, masks=[1] * (MAX_MASKS + 1)),
    "masks that are not a list": lambda peer: peer.answer(1, masks=7),
    "an unhashable number": lambda peer: peer.answer(1, masks=[[1]]),
    "no errors": lambda peer: peer.answer(1, errors={}),
    "seconds that are not a number": lambda peer: peer.answer(1, seconds="soon"),
    "memory that is not a number": lambda peer: peer.answer(1, memory_bytes="little"),
    "a state with one value": lambda peer: peer.send({"states": [[1]]}),
    "not an object": lambda peer: peer.send([1]),
    "invalid JSON": lambda peer: peer.connection.send_bytes(b"{"),
    "deeply nested JSON": lambda peer: peer.connection.send_bytes(b"[" * 100_000),
    "a length beyond the limit": lambda peer: os.write(
        peer.connection.fileno(), (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")
    ),
    "a negative length": lambda peer: os.write(peer.connection.fileno(), b"\xff" * 12),
}


@pytest.mark.parametrize("name", FALSE_MESSAGES)
def test_a_process_that_sends_false_messages_is_ended(peer, name):
    matcher = peer.start()
    FALSE_MESSAGES[name](peer)
    find_allowed([matcher], [False], LONG)
    assert_ended(matcher)


@pytest.mark.parametrize("has_states", [False, True])
def test_a_process_that_ends_before_its_answer_is_complete_fails_its_sequences(peer, has_states):
    matcher = peer.start()
    peer.masks[0] = 255
    if has_states:
        peer.send({"states": [[1, False, False, ""]]})
    peer.connection.close()
    find_allowed([matcher], [False], LONG)
    assert_ended(matcher)


def test_the_last_answer_of_a_process_that_has_ended_counts(peer):
    matcher = peer.start()
    peer.masks[0] = 255
    peer.answer(1)
    peer.connection.close()
    assert find_allowed([matcher], [False], LONG)[1] == [True]
    matcher.process.receive()
    assert not matcher.process.is_open


def test_reading_part_of_a_message_does_not_block(peer):
    matcher = peer.start()
    answer = json.dumps({"states": [[1, True, True, ""]]}).encode()
    message = len(answer).to_bytes(4, "big") + answer
    for byte in message:
        assert not matcher.is_answered
        os.write(peer.connection.fileno(), bytes([byte]))
        peer.process.receive()
    assert matcher.is_complete


def test_a_flood_of_messages_delays_a_step_once(peer):
    matcher = peer.start()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer.send({})

    thread = threading.Thread(target=flood)
    thread.start()
    started = time.monotonic()
    _, is_filled = find_allowed([matcher], [False], 0.1)
    assert time.monotonic() - started < LONG
    assert is_filled == [False]
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux seals files")
def test_a_process_cannot_change_the_size_of_its_file():
    descriptor = create_mask_file(NUM_BYTES)
    for num_bytes in (0, 2 * MAX_MASKS * NUM_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, num_bytes)
    os.close(descriptor)


def test_masks_are_read_without_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = create_mask_file(NUM_BYTES)
    masks = map_masks(os.dup(descriptor), NUM_BYTES)
    masks[1] = 3
    assert np.array_equal(read_masks(descriptor, 2, NUM_BYTES), masks[:2])
    os.ftruncate(descriptor, NUM_BYTES)
    with pytest.raises(ValueError, match="reshape"):
        read_masks(descriptor, 2, NUM_BYTES)
    os.close(descriptor)


def test_more_sequences_than_the_file_holds_take_several_messages(monkeypatch):
    monkeypatch.setattr(grammar_process, "MAX_MASKS", 3)
    monkeypatch.setattr(grammar_process, "MAX_CLOSED", 2)
    tokenizer = create_tokenizer().backend_tokenizer
    grammar = Grammars(tokenizer, tokenizer.get_vocab_size()).compile(GrammarSource("regex", "a+"))
    expected = allowed_by(grammar.start(frozenset()))
    matchers = [grammar.start(frozenset()) for _ in range(8)]
    allowed, is_filled = find_allowed(matchers, [False] * 8, timeout=None)
    assert all(is_filled)
    assert len({row.tobytes() for row in allowed}) == 1
    for matcher in matchers:
        matcher.close()
    assert allowed_by(grammar.start(frozenset())) == expected


def test_memory_of_masks_is_counted():
    tokenizer = create_tokenizer().backend_tokenizer
    grammars = Grammars(tokenizer, 2**18)
    grammar = grammars.compile(GrammarSource("regex", "a+"))
    before = grammars.server._budget.num_taken
    matchers = [grammar.start(frozenset()) for _ in range(600)]
    find_allowed(matchers, [False] * len(matchers), timeout=None)
    find_allowed([grammar.start(frozenset())], [False], timeout=None)
    # Some of it is memory that the compilation has left, and the kernel counts in batches.
    assert grammars.server._budget.num_taken - before > len(matchers) * 2**18 // 8 // 2
