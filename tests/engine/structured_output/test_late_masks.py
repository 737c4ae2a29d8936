"""Grammar processes that are slow, or end: they delay and fail their own sequences alone."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.model.loader import load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling import scheduler
from src.engine.structured_output import matcher as matchers
from src.engine.structured_output.matcher import Grammar, Matcher
from src.engine.structured_output.source import DeadEndError, GrammarSource
from tests.support.engines import PROMPT, SteppedCore
from tests.support.grammars import Grammars, allowed_by

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tiny_model) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def grammars(folder) -> Grammars:
    loaded = load_model(EngineConfig(str(folder)))
    return Grammars(loaded.tokenizer, loaded.vocab_size)


@pytest.fixture
def compiled(grammars) -> Iterator[Callable[[str], tuple[Grammar, psutil.Process]]]:
    """Compiles a regular expression; gives the grammar and its process."""

    def compile_pattern(pattern: str) -> tuple[Grammar, psutil.Process]:
        before = set(psutil.Process().children(recursive=True))
        grammar = grammars.compile(GrammarSource("regex", pattern))
        (process,) = set(psutil.Process().children(recursive=True)) - before
        return grammar, process

    return compile_pattern


def create_stepped(folder: Path, *, may_fail: bool = False) -> SteppedCore:
    config = EngineConfig(str(folder), max_num_seqs=4, kv_cache_gb=0.01)
    return SteppedCore(create_core(load_model(config), config), may_fail=may_fail)


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
def test_a_slow_grammar_delays_its_own_sequences_alone(folder, compiled, stopped_after):
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
    assert [(one.token_ids, one.reason) for one in (free, shaped)] == expected


def test_an_engine_whose_every_sequence_waits_for_masks_goes_on_when_they_come(folder, compiled):
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
def test_an_end_that_is_known_late_is_told_when_it_is(
    folder, compiled, monkeypatch, pattern, max_tokens, reason
):
    """The process stops between its mask and its answer to the token that is chosen by it."""
    grammar, process = compiled(pattern)
    stepped = create_stepped(folder)
    stepped.add(create_request("shaped", grammar, max_tokens=max_tokens))
    real = matchers.GrammarProcess.advance

    def advance(one: object, steps: list) -> None:
        if any(token_ids for _, token_ids in steps):
            process.suspend()
        real(one, steps)

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
def test_an_end_at_max_tokens_is_told_before_the_model_runs_again(
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


def test_the_end_of_a_full_sequence_is_waited_for_once(folder, compiled, monkeypatch):
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
def test_a_process_that_ends_fails_its_own_sequences_alone(folder, compiled, killed_after):
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
    assert answers["bad"].reason is FinishReason.ERROR
    assert [
        (answers[name].token_ids, answers[name].reason) for name in ("free", "good")
    ] == expected


def test_a_request_that_is_aborted_while_its_mask_is_awaited_is_gone(folder, compiled):
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


def test_a_process_that_ends_while_a_mask_is_late_fails_old_and_new_sequences_alone(
    folder, compiled
):
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
    assert answers["late"].reason is answers["new"].reason is FinishReason.ERROR
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
def test_nothing_that_is_sent_to_a_busy_process_blocks(compiled):
    """A socket holds some hundred messages; the process reads none here."""
    grammar, process = compiled("[a-z]{20}")
    process.suspend()
    for _ in range(2000):
        matcher = grammar.start(frozenset())
        matcher.begin()
        matcher.close()
        grammar.start(frozenset()).close()
    process.resume()
    assert len(allowed_by(grammar.start(frozenset()))) > 20


def test_steps_wait_once_for_a_slow_process_and_not_for_each_of_its_sequences(folder, compiled):
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
