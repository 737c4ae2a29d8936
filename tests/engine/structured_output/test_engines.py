"""Structured output in both engines: answers fit the grammar, other requests do not change."""

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
from src.engine.factory import create_engine
from src.engine.model.loader import load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.grammar_process import GrammarProcess, SequenceState
from src.engine.structured_output.matcher import Grammar
from src.engine.structured_output.source import GrammarSource
from tests.support.engines import PROMPT, Answer, Harness, assert_same_logprobs, create_stepped

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
    started = {kind: start(folder, kind) for kind in ENGINES}
    yield started
    for engine in started.values():
        engine.close()


def start(folder: Path, kind: str, **changes: object) -> Harness:
    config = EngineConfig(str(folder), engine=kind, max_num_seqs=4, kv_cache_gb=0.01)
    loaded = replace(load_model(config), **changes)
    return Harness(lambda receive: create_engine(loaded, config, receive))


def ask(engines: dict[str, Harness], grammar: Grammar | None, **params: object) -> Answer:
    """Returns the answer, and asserts that it is the same in both engines."""
    params = {"max_tokens": 60, "temperature": 0} | params
    request = Request("r", PROMPT, SamplingParams(**params), grammar=grammar)
    continuous, reference = (engines[kind].add(request).answer() for kind in ENGINES)
    assert (continuous.token_ids, continuous.reason) == (reference.token_ids, reference.reason)
    assert_same_logprobs(continuous.logprobs, reference.logprobs)
    return continuous


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


def test_greedy_decoding_chooses_the_likeliest_allowed_token(engines, compiled, tokenizer):
    free = ask(engines, None, max_tokens=3)
    text = json.dumps([tokenizer.decode(free.token_ids, skip_special_tokens=False), "no"])
    answer = ask(engines, compiled("choice", json.loads(text)))
    assert answer.token_ids == free.token_ids


def test_logprobs_are_those_without_a_grammar(engines, compiled):
    free = ask(engines, None, max_tokens=1, logprobs=20)
    (first,) = ask(engines, compiled("regex", "[a-z]"), logprobs=20).logprobs
    assert first.top == free.logprobs[0].top
    assert first.chosen.logprob < first.top[0].logprob


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ENGINES)
def test_a_sampled_answer_fits_its_schema_or_ends_at_max_tokens(
    engines, compiled, tokenizer, kind, seed
):
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
def test_an_answer_ends_where_its_grammar_allows_it(
    engines, compiled, tokenizer, pattern, params, num_tokens, reason
):
    (q,) = tokenizer.encode("q").ids
    answer = ask(engines, compiled("regex", pattern), **params)
    assert (len(answer.token_ids), answer.reason) == (num_tokens, reason)
    assert set(answer.token_ids[:-1]) <= {q}


def test_a_grammar_overrides_a_token_ban(engines, compiled, tokenizer):
    (q,) = tokenizer.encode("q").ids
    answer = ask(engines, compiled("regex", "q"), logit_bias={q: -100.0})
    assert answer.token_ids == [q]


def create_mixed(compiled: Callable[[str, object], Grammar]) -> list[Request]:
    """Returns requests with and without a grammar; their prompts share a prefix."""
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
    stepped = create_stepped(folder, max_num_batched_tokens=40)
    stepped.add(*requests)
    answers = stepped.finish()
    return {name: (answer.token_ids, answer.reason) for name, answer in answers.items()}


def test_answers_do_not_depend_on_the_rest_of_the_batch(folder, compiled):
    requests = create_mixed(compiled)
    together = run(folder, requests)
    for request in requests:
        assert run(folder, [request]) == {request.request_id: together[request.request_id]}


def test_a_failed_step_is_repeated_without_advancing_a_grammar_twice(folder, compiled):
    """The last request makes each of its steps raise; bisection repeats the steps of the others."""
    requests = create_mixed(compiled)[:4]
    expected = run(folder, requests[:3])
    stepped = create_stepped(folder, may_fail=True, max_num_batched_tokens=40)
    break_sampling(stepped.core, requests[3])
    stepped.add(*requests)
    answers = stepped.finish()
    assert answers.pop("3").reason is FinishReason.ERROR
    assert expected == {name: (answer.token_ids, answer.reason) for name, answer in answers.items()}


def break_sampling(core: EngineCore, request: Request) -> None:
    """Makes a step raise after sampling when this request's fourth token is due."""
    real = core._runner.execute

    def execute(scheduled: list) -> list:
        results = real(scheduled)
        for entry in scheduled:
            if entry.sequence.request is request and entry.sequence.num_generated == 3:
                raise RuntimeError("made to fail")
        return results

    core._runner.execute = execute


@pytest.mark.parametrize("kind", ENGINES)
def test_a_dead_end_fails_only_its_own_request(folder, compiled, kind, monkeypatch):
    """Simulates a bug of the library: it allows a token, and then refuses it."""
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
    assert failed.all()[1] is FinishReason.DEAD_END
    assert fine.all()[1] is FinishReason.STOP
    assert free.all()[1] is FinishReason.LENGTH
    engine.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_logits_of_minus_infinity_for_all_allowed_tokens_fail_the_request(folder, compiled, kind):
    engine = start(folder, kind)
    break_logits(engine, kind)
    params = SamplingParams(max_tokens=6, temperature=0)
    shaped = engine.add(Request("shaped", PROMPT, params, grammar=compiled("regex", "q{4}")))
    assert shaped.all()[1] is FinishReason.DEAD_END
    engine.close()


def break_logits(engine: Harness, kind: str) -> None:
    """Sets all logits but the end token's to minus infinity; the grammar forbids the end token."""
    core = engine.engine
    loaded_model = core._core._runner._model if kind == "continuous" else core._loaded.model
    real = loaded_model.forward

    def forward(*args: object, **kwargs: object) -> object:
        output = real(*args, **kwargs)
        output.logits[..., 1:] = -torch.inf
        return output

    loaded_model.forward = forward


@pytest.mark.parametrize("kind", ENGINES)
def test_an_abort_ends_an_endless_answer(folder, compiled, kind):
    engine = start(folder, kind)
    params = SamplingParams(max_tokens=100, temperature=0, logit_bias={0: -100.0})
    outputs = engine.add(Request("r", PROMPT, params, grammar=compiled("regex", "q+")))
    outputs.next()
    engine.engine.abort_request("r")
    assert outputs.all()[1] in (FinishReason.ABORT, FinishReason.LENGTH)
    engine.close()


def test_a_cached_prompt_changes_no_answer(folder, compiled):
    stepped = create_stepped(folder, max_num_batched_tokens=40)
    params = SamplingParams(max_tokens=30, temperature=0)
    for name in ("first", "second"):
        request = Request(name, list(range(5, 65)), params, grammar=compiled("json_schema", SCHEMA))
        stepped.add(request)
        stepped.finish()
    first, second = stepped.answers["first"], stepped.answers["second"]
    assert second.admission.num_cached_tokens > 0
    assert (first.token_ids, first.reason) == (second.token_ids, second.reason)


def test_a_grammar_cannot_be_combined_with_stop_or_ignore_eos():
    source = GrammarSource("regex", "a")
    for params in ({"stop": ("x",)}, {"ignore_eos": True}):
        with pytest.raises(ValueError, match="grammar"):
            SamplingParams(grammar=source, **params)
