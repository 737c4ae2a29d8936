"""Random hostile grammars beside a calm stream: the stream has no gap, the server survives.

`benchmarks.attacks` measures known attacks in the same way.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.attacks import Attack, chain_of_references, chain_of_rules, completion, run_attack
from tests.support.servers import Server, serve

MAX_GAP, MAX_COMPILE = 3.0, 6.0
"""Seconds on a busy machine; `benchmarks.attacks` has the bounds of an idle one."""

REFUSED_OR_SERVED = {"200", "400", "503", "504"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("attacked")
    with serve(folder, timeout_seconds=8, grammar_timeout_seconds=2) as running:
        running.wait_until("/health/ready")
        yield running
        assert running.stop() == 0


def attack(server: Server, hostile: Attack) -> None:
    process = server.process.pid
    result = run_attack(server.url, hostile)
    assert server.process.poll() is None
    assert server.process.pid == process
    assert result.answers.keys() <= REFUSED_OR_SERVED, server.log[-2000:]
    assert result.longest_gap <= MAX_GAP
    assert result.compile_seconds <= MAX_COMPILE


NUMBERS = st.sampled_from([0, 1, 2, 7, 12, 99, 255, 1000, 65_536, 10_000_019, 2**31, 2**63, 10**30])
SIZES = st.sampled_from([1, 3, 30, 300, 3000])
ATOMS = st.sampled_from(
    ["a", ".", "[^a]", "\\d", "(a|aa)", "(?s:.)", "\\p{L}", "é", "[a-z0-9]", ""]
)


def repeated(pattern: str, low: int, high: int) -> str:
    return f"({pattern}){{{low},{high}}}"


PATTERNS = st.one_of(
    st.recursive(
        ATOMS,
        lambda inner: st.one_of(
            st.builds("({})*".format, inner),
            st.builds("({}|{})".format, inner, inner),
            st.builds("{}{}".format, inner, inner),
            st.builds(repeated, inner, NUMBERS, NUMBERS),
        ),
        max_leaves=12,
    ),
    st.builds(lambda size: "(" * size + "a" + ")" * size, SIZES),
    st.builds(lambda size, end: "(a?){" + str(size) + "}a{" + str(size) + end, SIZES, ATOMS),
    st.builds(
        lambda start, size: start * size, st.sampled_from(["(", "[", "{", "\\", "a{1"]), SIZES
    ),
    st.text(max_size=200),
)
SCALARS = st.one_of(NUMBERS, NUMBERS.map(float), st.text(max_size=5), st.none(), st.booleans())
KEYWORDS = st.sampled_from(
    [
        "type",
        "multipleOf",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "enum",
        "const",
        "required",
        "format",
        "pattern",
        "minProperties",
        "$ref",
        "items",
        "$defs",
    ]
)
SCHEMAS = st.one_of(
    st.recursive(
        st.dictionaries(KEYWORDS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4),
        lambda inner: st.one_of(
            st.builds(lambda left, right: left | right, inner, inner),
            st.builds(
                lambda part: {"properties": {"a": part, "b": part}, "required": ["a"]}, inner
            ),
            st.builds(lambda part, size: {"anyOf": [part] * size}, inner, SIZES),
            st.builds(lambda left, right: {"allOf": [left, right]}, inner, inner),
            st.builds(lambda part: {"type": "array", "items": part, "minItems": 50}, inner),
            st.builds(
                lambda part: {"additionalProperties": part, "patternProperties": {".": part}}, inner
            ),
        ),
        max_leaves=10,
    ),
    st.builds(chain_of_references, SIZES),
    st.builds(lambda size: {"properties": {f"p{i}": {"$ref": "#"} for i in range(size)}}, SIZES),
    st.builds(lambda number: {"type": "integer", "multipleOf": number}, NUMBERS),
    st.builds(
        lambda low, high: {"type": "integer", "minimum": low, "maximum": high}, NUMBERS, NUMBERS
    ),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS),
)
RULES = st.sampled_from(
    [
        "a a",
        "a | b",
        "b a b",
        '"x"',
        '"x" a "y"',
        "(a b)+",
        "a? b*",
        "/[ab]+/",
        "c{1,9}",
        "b~3..900",
        '""',
        '"',
        "/",
        "(",
        "[",
        "// [",
        '# "',
        '%json {"type":"object"}',
        "%regex {}",
        "<[3]>",
    ]
)
GRAMMARS = st.one_of(
    st.builds('start: a\na: {}\nb: {} | "z"\nc: {}'.format, RULES, RULES, RULES),
    st.builds("start: {}\na: a a a | {}\nb: a b | {}".format, RULES, RULES, RULES),
    st.builds(chain_of_rules, SIZES),
    st.builds(
        lambda start, piece, size: start + piece * size,
        st.sampled_from(["start: ", '["', "start: a\na: ", "// "]),
        st.sampled_from(['\\"', '"', "(", "a ", "a|", "/x/ ", "[", '"x" | ', "\n"]),
        st.sampled_from([10, 1000, 60_000]),
    ),
    st.builds(lambda pattern: f"start: /{pattern}/", PATTERNS),
)
HOSTILE = st.one_of(
    SCHEMAS.map(lambda schema: {"guided_json": schema}),
    PATTERNS.filter(bool).map(lambda pattern: {"guided_regex": pattern}),
    GRAMMARS.map(lambda grammar: {"guided_grammar": grammar}),
)


@pytest.mark.timeout(400)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(grammar=HOSTILE, copies=st.sampled_from([1, 3]), n=st.sampled_from([1, 8]))
def test_a_random_hostile_grammar_delays_no_other_stream(server, grammar, copies, n):
    attack(server, completion("drawn", copies, n=n, max_tokens=16, **grammar))


KNOWN = {
    "chain of references": {"guided_json": chain_of_references(3000)},
    "chain of rules": {"guided_grammar": chain_of_rules(3000)},
    "unclosed text": {"guided_grammar": '["' + '\\"' * 120_000},
    "multipleOf": {"guided_json": {"type": "integer", "multipleOf": 10000019}},
    "empty types": {"guided_json": {"type": []}},
    "unclosed count": {"guided_regex": "a{12"},
    "bracket in a comment": {"guided_grammar": "// [\nstart: /a{100000}/"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_attack_is_refused_with_400_and_delays_no_other_stream(server, name):
    hostile = completion(name, 3, **KNOWN[name])
    result = run_attack(server.url, hostile)
    assert result.answers.keys() <= {"400", "503"}
    assert "400" in result.answers
    assert server.process.poll() is None
    assert result.longest_gap <= MAX_GAP
    assert result.compile_seconds <= MAX_COMPILE


def test_an_ambiguous_grammar_of_many_sequences_delays_no_other_stream(server):
    grammar = 'start: a\na: a a a| a a | "x" | "y"'
    attack(server, completion("bush", n=31, max_tokens=150, min_tokens=150, guided_grammar=grammar))
