"""Matchers with vocabularies of several kinds, and errors of grammars that are refused."""

import json
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from src.engine.structured_output.fork_server import ForkServer
from src.engine.structured_output.matcher import Grammar, Matcher, find_allowed
from src.engine.structured_output.source import DeadEndError, GrammarSource
from src.engine.structured_output.vocabulary import UnreadableTokenizerError
from src.errors import InvalidGrammarError, InvalidSchemaError
from src.text.detokenizer import IncrementalDetokenizer
from tests.support.grammars import Grammars, allowed_by, take
from tests.support.servers import ROOT
from tests.support.tiny_models import create_byte_fallback_tokenizer, create_tokenizer


def create_bare_tokenizer() -> Tokenizer:
    """Returns a byte-level tokenizer without special tokens."""
    tokenizer = Tokenizer(
        BPE({name: i for i, name in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZERS = {
    "tiny": create_tokenizer().backend_tokenizer,
    "storyteller": Tokenizer.from_file(str(ROOT / "src/bundled/storyteller/tokenizer.json")),
    "byte fallback": create_byte_fallback_tokenizer(),
    "bare": create_bare_tokenizer(),
}


@cache
def grammars(name: str) -> Grammars:
    tokenizer = TOKENIZERS[name]
    return Grammars(tokenizer, tokenizer.get_vocab_size() + 41)


def compile_text(kind: str, text: str, name: str = "tiny") -> Grammar:
    return grammars(name).compile(GrammarSource(kind, text, ("here",)))


def compile_schema(schema: object, name: str = "tiny") -> Grammar:
    return compile_text("json_schema", json.dumps(schema), name)


def write(grammar: Grammar, name: str = "tiny", seed: int = 0, max_tokens: int = 400) -> str | None:
    """Generates a random answer that the grammar allows; None if `max_tokens` are too few."""
    chooser = random.Random(seed)
    tokenizer = TOKENIZERS[name]
    detokenizer = IncrementalDetokenizer(tokenizer, tokenizer.encode("a b").ids)
    end = tokenizer.get_vocab_size() + 1  # an id of the model that the tokenizer lacks
    matcher = grammar.start(frozenset({end}))
    text = ""
    for _ in range(max_tokens):
        token_id = choose(grammars(name), matcher, chooser, end)
        if token_id == end:
            return text + detokenizer.finish()
        take(matcher, token_id)
        text += detokenizer.push(token_id)
        if matcher.is_complete:
            return text + detokenizer.finish()
    return None


def choose(known: Grammars, matcher: Matcher, chooser: random.Random, end: int) -> int:
    """Returns a random allowed token; every second time one that ends a value, if allowed."""
    allowed = allowed_by(matcher)
    ending = [token_id for token_id in allowed if known.decode(token_id) in ENDINGS]
    if matcher.is_accepting and chooser.random() < 0.3:
        return end
    return chooser.choice(ending if ending and chooser.random() < 0.5 else allowed)


ENDINGS = (b'"', b"}", b"]", b'":')


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "choices",
    [["yes", "no"], ["a", "ab"], ["é\n\"\\/'\t\x7f\0😀"], ["<|endoftext|>", "</s>"], [" the th"]],
)
def test_an_answer_is_one_of_the_choices_in_every_vocabulary(name, choices):
    grammar = compile_text("choice", json.dumps(choices), name)
    texts = {write(grammar, name, seed) for seed in range(20)}
    assert texts <= set(choices)
    assert len(texts) == len(choices)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_json_answer_fits_its_schema_in_every_vocabulary(name):
    schema = {
        "type": "object",
        "properties": {"thé": {"type": "string"}, "b": {"enum": ["the", 1.5, None]}},
        "required": ["thé", "b"],
        "additionalProperties": False,
    }
    grammar = compile_schema(schema, name)
    texts = [write(grammar, name, seed) for seed in range(20)]
    assert sum(text is not None for text in texts) > 10
    for text in texts:
        if text is not None:
            Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_special_token_is_part_of_an_answer(name):
    matcher = compile_text("regex", r"(?s:.*)", name).start(frozenset())
    num_tokens = TOKENIZERS[name].get_vocab_size()
    special = {
        token_id
        for token_id, token in TOKENIZERS[name].get_added_tokens_decoder().items()
        if token.special
    }
    allowed = set(allowed_by(matcher))
    assert len(allowed) > 150
    assert not allowed & special
    assert max(allowed) < num_tokens, "the tokenizer lacks the model's other tokens"


def test_end_tokens_are_allowed_where_the_answer_is_complete():
    ends = frozenset({0, 1})
    matcher = compile_text("regex", "ab?").start(ends)
    a, b = TOKENIZERS["tiny"].encode("ab").ids
    assert allowed_by(matcher) == [a]
    with pytest.raises(DeadEndError):
        matcher.end()
    take(matcher, a)
    assert allowed_by(matcher) == [0, 1, b]
    assert allowed_by(matcher, is_early=True) == [b]
    matcher.end()
    take(matcher, b)
    assert matcher.is_complete
    assert allowed_by(matcher) == []  # it ends without another token
    with pytest.raises(DeadEndError):
        take(matcher, b)


def test_a_text_token_that_ends_the_sequence_is_not_part_of_the_answer():
    a, b = TOKENIZERS["tiny"].encode("ab").ids
    matcher = compile_text("regex", "[ab]+").start(frozenset({b}))
    assert allowed_by(matcher) == [a]
    take(matcher, a)
    assert b in allowed_by(matcher)


def test_reading_the_mask_does_not_change_the_state():
    matcher = compile_text("regex", "[a-z]{3}").start(frozenset())
    first = allowed_by(matcher)
    assert allowed_by(matcher) == first
    take(matcher, first[0])
    assert allowed_by(matcher) == allowed_by(matcher) != first


def test_sequences_of_one_grammar_are_independent():
    grammar = compile_text("choice", '["ab", "cd"]')
    advanced, other = grammar.start(frozenset()), grammar.start(frozenset())
    take(advanced, allowed_by(advanced)[0])
    assert len(allowed_by(other)) == 2
    together, _ = find_allowed([other, advanced], [False, False], timeout=None)
    assert not (together[0] == together[1]).all()


def test_a_grammar_without_an_allowed_token_is_a_dead_end():
    tokenizer = TOKENIZERS["byte fallback"]
    ends = frozenset(tokenizer.encode("q").ids)
    matcher = compile_text("regex", "q", "byte fallback").start(ends)
    for byte in ("<0x71>", "q"):
        assert tokenizer.token_to_id(byte) is not None
    matcher.end_bits |= grammars("byte fallback").layout.bits([tokenizer.token_to_id("<0x71>")])
    with pytest.raises(DeadEndError):
        allowed_by(matcher)


def test_a_tokenizer_that_skips_token_ids_is_supported():
    described = json.loads(TOKENIZERS["bare"].to_str())
    left_out = [described["model"]["vocab"].pop(letter) for letter in "xyz"]
    tokenizer = Tokenizer.from_str(json.dumps(described))
    known = Grammars(tokenizer, TOKENIZERS["bare"].get_vocab_size())
    matcher = known.compile(GrammarSource("regex", "[a-zA-Z0-9]+")).start(frozenset())
    allowed = allowed_by(matcher)
    assert not {*allowed} & {*left_out}
    assert tokenizer.token_to_id("w") in allowed


def test_a_tokenizer_of_another_kind_is_refused_with_the_reason():
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(UnreadableTokenizerError, match="decoder"):
        ForkServer(words.to_str(), 2, 2**30)


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    [
        ({"properties": {"a": {"items": {"not": {}}}}}, ("properties", "a", "items"), "not"),
        ({"anyOf": [{}, {"type": "foo"}]}, ("anyOf", 1), "foo"),
        ({"$defs": {"a": {"contains": {}}}, "$ref": "#/$defs/a"}, None, "contains"),
        ({"properties": {"a/b~": {"pattern": "("}}}, ("properties", "a/b~"), "unclosed"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, ("properties", "a"), "nowhere"),
        ({"minimum": 5, "maximum": 3, "type": "integer"}, (), "minimum"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, (), "oneOf"),
        ({"enum": []}, (), "empty"),
        ({"properties": {"a": {"uniqueItems": True}}}, ("properties", "a"), "uniqueItems"),
        ({"x-guidance": {"lenient": True}, "not": {}}, (), "not"),
        (
            {
                "type": "array",
                "items": {"$ref": "#/$defs/a"},
                "$defs": {"a": {"if": {}, "else": False}},
            },
            None,
            "if",
        ),
        ([], (), "object"),
        ("x", (), "object"),
        ({"required": ["a"], "properties": {"a": {"$ref": "#"}}, "type": "object"}, None, "no way"),
    ],
)
def test_a_schema_that_is_not_supported_is_refused_with_its_place(schema, place, reason):
    with pytest.raises(InvalidSchemaError, match=reason) as caught:
        compile_schema(schema)
    if place is None:  # the reference, or its target
        assert len(caught.value.field) > 1
    else:
        assert caught.value.field == ("here", *place)


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("regex", "(", "unclosed"),
        ("regex", "(?=a)b", "look"),
        ("regex", "a{100000}", "20000"),
        ("regex", "((a{1000}){1000}){10}", "20000"),
        ("regex", "(a?){500}a{500}", "complex"),
        ("lark", 'start: "a" )', "expect"),
        ("lark", 'start: "a" <|endoftext|>', "Special"),
        ("lark", 'start: "<" <[4]>', "Special"),
        ("lark", 'begin: "a"', "start"),
        ("lark", 'start: ("a" "b"){100000}', "expands to"),
        ("choice", json.dumps(["a" * 20_001]), "20001"),
        ("lark", 'start: a\na: "x" a', "no answer"),
    ],
)
def test_an_unusable_grammar_is_refused_with_the_reason(kind, text, reason):
    with pytest.raises(InvalidGrammarError, match=f"(?i){reason}") as caught:
        compile_text(kind, text)
    assert caught.value.field == ("here",)


MANY = {f"p{index}": {"type": "string"} for index in range(1500)}
HOSTILE = {
    "backtracking": ("regex", "(a+)+b"),
    "nested stars": ("regex", "((a*)*)*b"),
    "ambiguous": ("regex", "(a|aa)+(a|aa)+c"),
    "far back": ("regex", "[ab]*a[ab]{60}c"),
    "many dots": ("regex", "(.*a){30}"),
    "counted twice": ("regex", "(a{1,100}){100}"),
    "long": ("regex", "a" * 20_000),
    "many choices": ("choice", json.dumps([f"choice {i}" for i in range(4000)])),
    "a large enum": ("json_schema", json.dumps({"enum": list(range(9000))})),
    "a long constant": ("json_schema", json.dumps({"const": "a" * 19_000})),
    "endless": ("json_schema", '{"$ref": "#"}'),
    "deep": ("json_schema", '{"items": ' * 500 + "{}" + "}" * 500),
    "many properties": ("json_schema", json.dumps({"properties": MANY})),
    "a repeated pattern": ("json_schema", '{"type": "string", "pattern": "^a{100000}$"}'),
    "many items": ("json_schema", '{"type": "array", "minItems": 100000, "items": {"const": 1}}'),
    "a long text": ("json_schema", '{"type": "string", "minLength": 100000}'),
    "a bush": ("lark", 'start: a\na: a a a | a a | "x" | "y" | ""'),
    "one bad of many": ("json_schema", json.dumps({"properties": MANY | {"z": {"not": {}}}})),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_or_cheap(name):
    try:
        grammar = compile_text(*HOSTILE[name])
    except InvalidGrammarError:
        pass
    else:
        write(grammar, max_tokens=100)


def test_json_allows_single_spaces_only():
    matcher = compile_schema({"type": "array", "items": {"type": "null"}}).start(frozenset())
    tokenizer = TOKENIZERS["tiny"]
    (space,) = tokenizer.encode(" ").ids
    (line,) = tokenizer.encode("\n").ids
    for character in "[null, null]":
        allowed = allowed_by(matcher)
        assert line not in allowed
        assert (space in allowed) == (character == " ")
        take(matcher, tokenizer.encode(character).ids[0])
    assert matcher.is_complete


NAMES = st.sampled_from(["a", "b", "the cat", "é", '"', "a/b", "$ref"])
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 1000), st.text('abé"\\ \n', max_size=5)
)
LEAVES = st.one_of(
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, VALUES),
    st.sampled_from([{"type": kind} for kind in ("null", "boolean", "string", "integer")]),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-300, 300),
        st.integers(0, 300),
    ),
    st.sampled_from(
        [
            {"type": "string", "pattern": "^[a-c]{1,4}$"},
            {"type": "string", "pattern": "a|b"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "uuid"},
            {"type": ["string", "null"]},
            {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25},
            {"type": "integer", "multipleOf": 7},
        ]
    ),
)


def objects(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    def build(properties: dict, num_required: int, other: object) -> dict:
        required = list(properties)[:num_required]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": other,
        }

    other = st.one_of(st.just(False), inner)
    return st.builds(build, st.dictionaries(NAMES, inner, max_size=3), st.integers(0, 3), other)


def arrays(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    return st.builds(
        lambda items, low, more: {
            "type": "array",
            "items": items,
            "minItems": low,
            "maxItems": low + more,
        },
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def unions(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    return st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))


SCHEMAS = st.recursive(
    LEAVES, lambda inner: st.one_of(objects(inner), arrays(inner), unions(inner)), max_leaves=6
)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.sampled_from(sorted(TOKENIZERS)), st.integers(0, 9))
def test_answers_fit_any_schema(schema, name, seed):
    text = write(compile_schema(schema, name), name, seed)
    if text is not None:
        Draft202012Validator(schema).validate(json.loads(text))
