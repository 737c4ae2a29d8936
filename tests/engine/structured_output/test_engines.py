"""Answers that grammars shape, in both engines: as greedy as without, and nobody else notices."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer

from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core, create_engine
from src.engine.model.loader import load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.matcher import Grammar
from src.engine.structured_output.process import GrammarProcess, SequenceState
from src.engine.structured_output.source import GrammarSource
from tests.support.engines import PROMPT, Answer, Harness, SteppedCore, assert_same_logprobs
from tests.support.grammars import Grammars

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["cat", "hat", 7, None]},
        "more": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
ENGINES = ("continuous", "reference")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tiny_model) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def grammars(folder) -> Grammars:
    loaded = load_model(EngineConfig(str(folder)))
    return Grammars(loaded.tokenizer, loaded.vocab_size)


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return load_model(EngineConfig(str(folder))).tokenizer


@pytest.fixture(scope="module")
def compiled(grammars) -> Callable[[str, object], Grammar]:
    def compile_text(kind: str, value: object) -> Grammar:
        text = value if kind in ("regex", "lark") else json.dumps(value)
        return grammars.compile(GrammarSource(kind, text))

    return compile_text


@pytest.fixture(scope="module")
def engines(folder) -> Iterator[dict[str, Harness]]:
    found = {kind: start(folder, kind) for kind in ENGINES}
    yield found
    for engine in found.values():
        engine.close()


def start(folder: Path, kind: str, **changes: object) -> Harness:
    config = EngineConfig(str(folder), engine=kind, max_num_seqs=4, kv_cache_gb=0.01)
    loaded = replace(load_model(config), **changes)
    return Harness(lambda receive: create_engine(loaded, config, receive))


def ask(engines: dict[str, Harness], grammar: Grammar | None, **params: object) -> Answer:
    """What both engines answer, which is the same."""
    params = {"max_tokens": 60, "temperature": 0} | params
    request = Request("r", PROMPT, SamplingParams(**params), grammar=grammar)
    ours, reference = (engines[kind].add(request).answer() for kind in ENGINES)
    assert (ours.token_ids, ours.reason) == (reference.token_ids, reference.reason)
    assert_same_logprobs(ours.logprobs, reference.logprobs)
    return ours


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": -1.0},
        {"logit_bias": dict.fromkeys(range(0, 320, 2), -100.0)},
        {"logprobs": 3},
        {"temperature": 1.5, "top_k": 1},
        {"temperature": 1.5, "top_p": 1e-6},
    ],
    ids=", ".join,
)
def test_an_answer_fits_its_schema_and_is_the_same_in_both_engines(
    engines, compiled, tokenizer, params
):
    answer = ask(engines, compiled("json_schema", SCHEMA), seed=1, **params)
    text = tokenizer.decode(answer.token_ids)
    assert answer.reason is FinishReason.STOP
    Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_the_most_likely_of_the_allowed_is_chosen(engines, compiled, tokenizer):
    free = ask(engines, None, max_tokens=3)
    text = json.dumps([tokenizer.decode(free.token_ids, skip_special_tokens=False), "no"])
    answer = ask(engines, compiled("choice", json.loads(text)))
    assert answer.token_ids == free.token_ids


def test_logprobs_are_those_of_the_model_itself(engines, compiled):
    free = ask(engines, None, max_tokens=1, logprobs=20)
    (first,) = ask(engines, compiled("regex", "[a-z]"), logprobs=20).logprobs
    assert first.top == free.logprobs[0].top
    assert first.chosen.logprob < first.top[0].logprob


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ENGINES)
def test_a_sampled_answer_fits_its_schema_or_is_cut(engines, compiled, tokenizer, kind, seed):
    params = SamplingParams(max_tokens=60, temperature=1.5, top_p=0.95, seed=seed)
    request = Request("r", PROMPT, params, grammar=compiled("json_schema", SCHEMA))
    answer = engines[kind].add(request).answer()
    text = tokenizer.decode(answer.token_ids)
    if answer.reason is FinishReason.STOP:
        Draft202012Validator(SCHEMA).validate(json.loads(text))
    else:
        assert answer.reason is FinishReason.LENGTH
        assert len(answer.token_ids) == 60


@pytest.mark.parametrize(
    ("pattern", "params", "num_tokens", "reason"),
    [
        ("q{3}", {}, 3, FinishReason.STOP),
        ("q{3}", {"max_tokens": 3}, 3, FinishReason.STOP),
        ("q{3}", {"max_tokens": 2}, 2, FinishReason.LENGTH),
        ("q{3}", {"min_tokens": 9}, 3, FinishReason.STOP),
        ("q*", {"logit_bias": {0: 100.0}}, 1, FinishReason.STOP),
        ("q*", {"logit_bias": {0: 100.0}, "min_tokens": 5}, 6, FinishReason.STOP),
        ("q{3,}", {"logit_bias": {0: 100.0}}, 4, FinishReason.STOP),
        ("q{3,}", {"logit_bias": {1: 100.0}, "stop_token_ids": (1,)}, 4, FinishReason.STOP),
        ("q+", {"logit_bias": {0: -100.0}, "max_tokens": 7}, 7, FinishReason.LENGTH),
    ],
)
def test_an_answer_ends_where_its_grammar_lets_it(
    engines, compiled, tokenizer, pattern, params, num_tokens, reason
):
    (q,) = tokenizer.encode("q").ids
    answer = ask(engines, compiled("regex", pattern), **params)
    assert (len(answer.token_ids), answer.reason) == (num_tokens, reason)
    assert set(answer.token_ids[:-1]) <= {q}


def test_a_banned_token_that_the_grammar_needs_comes_all_the_same(engines, compiled, tokenizer):
    (q,) = tokenizer.encode("q").ids
    answer = ask(engines, compiled("regex", "q"), logit_bias={q: -100.0})
    assert answer.token_ids == [q]


def create_stepped(folder: Path, *, may_fail: bool = False) -> SteppedCore:
    config = EngineConfig(str(folder), max_num_seqs=4, max_num_batched_tokens=40, kv_cache_gb=0.01)
    return SteppedCore(create_core(load_model(config), config), may_fail=may_fail)


def create_mixed(compiled: Callable[[str, object], Grammar]) -> list[Request]:
    """Some with a grammar and some without, whose prompts begin alike."""
    grammars = [
        None,
        compiled("json_schema", SCHEMA),
        None,
        compiled("regex", "(cat|hat)+"),
        compiled("json_schema", SCHEMA),
        compiled("choice", ["the cat", "the mat"]),
        None,
    ]
    return [
        Request(
            str(number),
            [*range(5, 45), 50 + number % 3],
            SamplingParams(max_tokens=12, temperature=1.3, seed=number),
            grammar=grammar,
        )
        for number, grammar in enumerate(grammars)
    ]


def run(folder: Path, requests: list[Request]) -> dict[str, tuple]:
    stepped = create_stepped(folder)
    stepped.add(*requests)
    answers = stepped.finish()
    return {name: (answer.token_ids, answer.reason) for name, answer in answers.items()}


def test_nobody_notices_who_else_is_in_the_batch(folder, compiled):
    requests = create_mixed(compiled)
    together = run(folder, requests)
    for request in requests:
        assert run(folder, [request]) == {request.request_id: together[request.request_id]}


def test_a_step_that_fails_is_run_again_and_takes_no_token_twice(folder, compiled):
    """The last one makes each step raise in which it is; the others' halves are run again."""
    requests = create_mixed(compiled)[:4]
    expected = run(folder, requests[:3])
    stepped = create_stepped(folder, may_fail=True)
    break_sampling(stepped.core, requests[3])
    stepped.add(*requests)
    answers = stepped.finish()
    assert answers.pop("3").reason is FinishReason.ERROR
    assert expected == {name: (one.token_ids, one.reason) for name, one in answers.items()}


def break_sampling(core: EngineCore, request: Request) -> None:
    """Makes a step raise, after all of it was computed, if this request's fourth token is due."""
    real = core._runner.execute

    def execute(scheduled: list) -> list:
        results = real(scheduled)
        for one in scheduled:
            if one.sequence.request is request and one.sequence.num_generated == 3:
                raise RuntimeError("made to fail")
        return results

    core._runner.execute = execute


@pytest.mark.parametrize("kind", ENGINES)
def test_a_grammar_with_no_way_to_go_on_fails_its_own_request_alone(
    folder, compiled, kind, monkeypatch
):
    """What cannot happen but by a fault: the library allows a token, and then does not take it."""
    real = GrammarProcess.advance

    def advance(process: GrammarProcess, steps: list[tuple[SequenceState, list[int]]]) -> None:
        real(
            process,
            [
                (state, [2] * len(token_ids) if state is bad.state else token_ids)
                for state, token_ids in steps
            ],
        )

    bad_grammar = compiled("regex", "[a-z]+")
    bad = bad_grammar.start(frozenset())
    monkeypatch.setattr(bad_grammar, "start", lambda _: bad)
    monkeypatch.setattr(GrammarProcess, "advance", advance)
    engine = start(folder, kind)
    params = SamplingParams(max_tokens=6, temperature=0)
    failed, fine, free = engine.add_all(
        [
            Request("bad", PROMPT, params, grammar=bad_grammar),
            Request("fine", PROMPT, params, grammar=compiled("regex", "q{4}")),
            Request("free", PROMPT, params),
        ]
    )
    assert failed.all()[1] is FinishReason.ERROR
    assert fine.all()[1] is FinishReason.STOP
    assert free.all()[1] is FinishReason.LENGTH
    engine.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_model_that_finds_all_allowed_tokens_impossible_fails_its_request(folder, compiled, kind):
    engine = start(folder, kind)
    break_logits(engine, kind)
    params = SamplingParams(max_tokens=6, temperature=0)
    shaped = engine.add(Request("shaped", PROMPT, params, grammar=compiled("regex", "q{4}")))
    assert shaped.all()[1] is FinishReason.ERROR
    engine.close()


def break_logits(engine: Harness, kind: str) -> None:
    """Only end tokens are possible, which a grammar forbids."""
    core = engine.engine
    loaded_model = core._core._runner._model if kind == "continuous" else core._loaded.model
    real = loaded_model.forward

    def forward(*args: object, **kwargs: object) -> object:
        output = real(*args, **kwargs)
        output.logits[..., 1:] = -torch.inf
        return output

    loaded_model.forward = forward


@pytest.mark.parametrize("kind", ENGINES)
def test_an_abort_ends_an_answer_that_never_would(folder, compiled, kind):
    engine = start(folder, kind)
    params = SamplingParams(max_tokens=100, temperature=0, logit_bias={0: -100.0})
    outputs = engine.add(Request("r", PROMPT, params, grammar=compiled("regex", "q+")))
    outputs.next()
    engine.engine.abort_request("r")
    assert outputs.all()[1] in (FinishReason.ABORT, FinishReason.LENGTH)
    engine.close()


def test_a_prompt_that_is_cached_changes_no_answer(folder, compiled):
    stepped = create_stepped(folder)
    params = SamplingParams(max_tokens=30, temperature=0)
    for name in ("first", "second"):
        request = Request(name, list(range(5, 65)), params, grammar=compiled("json_schema", SCHEMA))
        stepped.add(request)
        stepped.finish()
    first, second = stepped.answers["first"], stepped.answers["second"]
    assert second.admission.num_cached_tokens > 0
    assert (first.token_ids, first.reason) == (second.token_ids, second.reason)


def test_a_grammar_goes_with_neither_stop_texts_nor_endless_answers():
    source = GrammarSource("regex", "a")
    for params in ({"stop": ("x",)}, {"ignore_eos": True}):
        with pytest.raises(ValueError, match="grammar"):
            SamplingParams(grammar=source, **params)
