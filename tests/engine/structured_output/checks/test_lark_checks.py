"""Checks of Lark grammars: quotes, nesting, references and size, in linear time."""

import contextlib
import time

import pytest

from src.engine.structured_output.checks.lark_checks import LarkError, check_lark


def rules(length: int) -> str:
    return "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(length)) + f"r{length}: /x/"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('start: "a', "line 1 is not closed"),
        ('start: "a"\nb: "\\"', "line 2 is not closed"),
        ("start: /a", "not closed"),
        ("start: <|end|>", "Special tokens"),
        ("start: " + "(" * 101, "brackets are nested more than 100"),
        (rules(600), "500 levels"),
    ],
)
def test_dangerous_grammars_are_refused_with_the_reason(text, reason):
    with pytest.raises(LarkError, match=reason):
        check_lark(text)


@pytest.mark.parametrize(
    "text",
    [
        'start: "<|end|>" /<b>/ // <c>\n# <d>',
        'start: "\\"" "//" "#" /"/ a?\n!a.2: ("b" | _C)~3\n_C: /c/i',
        'start[capture]: %json {"type": "object", "properties": {"a<": {"pattern": "^/$"}}}',
        rules(400),
        "// [\nstart: /a/",
    ],
)
def test_harmless_grammars_pass(text):
    assert check_lark(text) < 20_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ('start: "ab" /c{10}/', 12),
        ("// [\nstart: /a{100}/", 100),
        ('start: ("ab" /c/){100}', 300),
        ('start: ("ab" /c/)~100', 300),
        ('start: ("ab" /c/)~3..100', 300),
        ('start: %json {"pattern": "a{100}"}', 100),
    ],
)
def test_the_size_counts_expanded_repetitions(text, size):
    assert size <= check_lark(text) <= size + 12


@pytest.mark.parametrize(
    "text",
    [
        '["' + '\\"' * 130_000,
        "start: " + "/" * 260_000,
        '"' * 260_001,
        "#" * 260_000,
        "a{" * 130_000,
        "start: a" + "|a" * 130_000,
        "\n" * 260_000 + '"',
        ":" * 260_000,
        "a[" * 130_000,
    ],
)
def test_hostile_texts_take_linear_time(text):
    """A quadratic scan would take minutes; the bound leaves room for busy machines."""
    started = time.process_time()
    with contextlib.suppress(LarkError):
        check_lark(text)
    assert time.process_time() - started < 10
