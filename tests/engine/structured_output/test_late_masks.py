"""Grammar processes that are slow or end: only their own sequences are delayed or fail."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling import scheduler
from src.engine.structured_output import matcher as matchers
from src.engine.structured_output.matcher import Grammar, Matcher
from src.engine.structured_output.source import DeadEndError, GrammarSource
from tests.support.engines import PROMPT, create_stepped
from tests.support.grammars import allowed_by

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def compiled(grammars) -> Iterator[Callable[[str], tuple[Grammar, psutil.Process]]]:
    """Yields a function that compiles a regular expression to a grammar and its process."""

    def compile_pattern(pattern: str) -> tuple[Grammar, psutil.Process]:
        before = set(psutil.Process().children(recursive=True))
        grammar = grammars.compile(GrammarSource("regex", pattern))
        (process,) = set(psutil.Process().children(recursive=True)) - before
        return grammar, process

    return compile_pattern


def create_request(name: str, grammar: Grammar | None = None, **params: object) -> Request:
    params = {
        "max_tokens": 40,
        "temperature": 1.3,
        "seed": 1,
        "ignore_eos": grammar is None,
    } | params
    return Request(name, PROMPT, SamplingParams(**params), grammar=grammar)


def run_alone(folder: Path, request: Request) -> tuple[list[int], FinishReason | None]:
    stepped = create_stepped(folder)
    stepped.add(request)
    answer = stepped.finish()[request.request_id]
    return answer.token_ids, answer.reason


@pytest.mark.parametrize("stopped_after", [0, 1, 3])
def test_a_slow_grammar_delays_only_its_own_sequences(folder, compiled, stopped_after):
    grammar, process = compiled("[a-z]{20}")
    requests = [create_request("free"), create_request("shaped", grammar)]
    expected = [run_alone(folder, request) for request in requests]
    stepped = create_stepped(folder)
    stepped.add(*requests)
    for _ in range(stopped_after):
        stepped.step()
    process.suspend()
    for _ in range(10):
        stepped.step()
    free, shaped = stepped.answers["free"], stepped.answers["shaped"]
    assert len(free.token_ids) == stopped_after + 10
    assert len(shaped.token_ids) <= stopped_after + 1
    process.resume()
    stepped.finish()
    assert [(answer.token_ids, answer.reason) for answer in (free, shaped)] == expected


def test_an_engine_with_only_late_masks_continues_when_they_come(folder, compiled):
    grammar, process = compiled("[a-z]{5}")
    request = create_request("shaped", grammar)
    expected = run_alone(folder, request)
    stepped = create_stepped(folder)
    stepped.add(request)
    process.suspend()
    for _ in range(3):
        assert stepped.step().outputs == []
    process.resume()
    answer = stepped.finish()["shaped"]
    assert (answer.token_ids, answer.reason) == expected


@pytest.mark.parametrize(
    ("pattern", "max_tokens", "reason"),
    [("q", 40, FinishReason.STOP), ("q{9}", 1, FinishReason.LENGTH)],
)
def test_a_late_finish_reason_is_reported_when_it_comes(
    folder, compiled, monkeypatch, pattern, max_tokens, reason
):
    """The process stops after its mask, before it answers to the token that the mask allowed."""
    grammar, process = compiled(pattern)
    stepped = create_stepped(folder)
    stepped.add(create_request("shaped", grammar, max_tokens=max_tokens))
    real = matchers.GrammarProcess.advance

    def advance(self: object, steps: list) -> None:
        if any(token_ids for _, token_ids in steps):
            process.suspend()
        real(self, steps)

    monkeypatch.setattr(matchers.GrammarProcess, "advance", advance)
    stepped.step()
    answer = stepped.answers["shaped"]
    assert (len(answer.token_ids), answer.reason) == (1, None)
    stepped.step()
    assert answer.reason is None
    process.resume()
    stepped.finish()
    assert (len(answer.token_ids), answer.reason) == (1, reason)


@pytest.mark.parametrize(("pattern", "reason"), [("qq", "stop"), ("q{9}", "length")])
def test_the_finish_reason_at_max_tokens_comes_before_the_next_step(
    folder, compiled, monkeypatch, pattern, reason
):
    monkeypatch.setattr(scheduler, "END_WAIT_SECONDS", 30)
    grammar, _ = compiled(pattern)
    stepped = create_stepped(folder)
    stepped.add(create_request("shaped", grammar, max_tokens=2), create_request("free"))
    while len(stepped.answers["shaped"].token_ids) < 2:
        stepped.step()
    assert stepped.step().step is None
    assert stepped.answers["shaped"].reason == reason
    stepped.finish()


def test_a_step_waits_once_for_the_finish_reason_at_max_tokens(folder, compiled, monkeypatch):
    grammar, process = compiled("q{9}")
    stepped = create_stepped(folder)
    stepped.add(create_request("shaped", grammar, max_tokens=2), create_request("free"))
    stepped.step()
    waits: list[float | None] = []
    real = scheduler.wait_for_answers

    def wait(full: list[Matcher], timeout: float | None) -> None:
        if full:
            process.suspend()
            waits.append(timeout)
        real(full, timeout)

    monkeypatch.setattr(scheduler, "wait_for_answers", wait)
    for _ in range(5):
        stepped.step()
    assert waits == [scheduler.END_WAIT_SECONDS]
    process.resume()
    assert stepped.finish()["shaped"].reason is FinishReason.LENGTH


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_the_end_of_a_process_fails_only_its_own_sequences(folder, compiled, killed_after):
    bad, process = compiled("[a-z]{20}")
    good, _ = compiled("[0-9]{20}")
    requests = [create_request("free"), create_request("good", good), create_request("bad", bad)]
    expected = [run_alone(folder, request) for request in requests[:2]]
    stepped = create_stepped(folder, may_fail=True)
    stepped.add(*requests)
    for _ in range(killed_after):
        stepped.step()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    answers = stepped.finish()
    assert answers["bad"].reason is FinishReason.DEAD_END
    assert [
        (answers[name].token_ids, answers[name].reason) for name in ("free", "good")
    ] == expected


def test_a_request_with_a_late_mask_can_be_aborted(folder, compiled):
    grammar, process = compiled("[a-z]{20}")
    stepped = create_stepped(folder)
    stepped.add(create_request("shaped", grammar))
    process.suspend()
    stepped.step()
    stepped.abort("shaped")
    assert stepped.answers["shaped"].reason is FinishReason.ABORT
    assert not stepped.core.has_work
    process.resume()
    stepped.add(create_request("again", grammar))
    assert stepped.finish()["again"].reason is FinishReason.STOP


def test_the_end_of_a_process_with_a_late_mask_fails_its_old_and_new_sequences(folder, compiled):
    grammar, process = compiled("[a-z]{20}")
    free = create_request("free")
    expected = run_alone(folder, free)
    stepped = create_stepped(folder, may_fail=True)
    stepped.add(free, create_request("late", grammar))
    process.suspend()
    stepped.step()
    stepped.step()
    os.kill(process.pid, signal.SIGKILL)
    stepped.add(create_request("new", grammar))
    answers = stepped.finish()
    assert answers["late"].reason is answers["new"].reason is FinishReason.DEAD_END
    assert (answers["free"].token_ids, answers["free"].reason) == expected


def test_waiting_for_a_process_that_has_ended_returns_at_once(compiled):
    grammar, _ = compiled("[a-z]{20}")
    late, other = grammar.start(frozenset()), grammar.start(frozenset())
    late.begin()
    late.was_late = True
    other.process.end()
    matchers.receive([late], 60)
    matchers.find_allowed([late, other], [False, False], timeout=None)
    for matcher in (late, other):
        with pytest.raises(DeadEndError, match="ended"):
            matcher.check()


@pytest.mark.timeout(60)
def test_sending_to_a_busy_process_does_not_block(compiled):
    """A socket holds a few hundred messages; the suspended process reads none."""
    grammar, process = compiled("[a-z]{20}")
    process.suspend()
    for _ in range(2000):
        matcher = grammar.start(frozenset())
        matcher.begin()
        matcher.close()
        grammar.start(frozenset()).close()
    process.resume()
    assert len(allowed_by(grammar.start(frozenset()))) > 20


def test_steps_wait_once_for_a_slow_process_not_once_for_each_sequence(folder, compiled):
    grammar, process = compiled("[a-z]{20}")
    stepped = create_stepped(folder)
    stepped.add(create_request("free", max_tokens=100), create_request("first", grammar))
    process.suspend()
    stepped.step()
    waits: list[float | None] = []
    real = matchers._wait

    def wait(processes: set, timeout: float | None) -> list:
        waits.append(timeout)
        return real(processes, timeout)

    matchers._wait = wait
    try:
        for number in range(2):
            stepped.add(create_request(f"more {number}", grammar))
            stepped.step()
            stepped.step()
    finally:
        matchers._wait = real
    assert waits
    assert not any(waits)
    process.resume()
    stepped.finish()
