"""Thoughts: any cut of an answer into deltas splits alike, and templates show their format."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.text.reasoning import (
    BEGIN,
    END,
    ThoughtSplitter,
    ThoughtStart,
    find_reasoning_format,
    find_switch,
)
from tests.support.tiny_models import create_tokenizer
from tests.text.test_chat_template import create_template

PIECES = st.sampled_from([BEGIN, END, "<", "<th", "</", "</think", "ink>", " ", "\n\n", "a", "é."])


def split(deltas: list[str], **options: bool) -> tuple[str, str]:
    splitter = ThoughtSplitter(BEGIN, END, **({"is_open": False} | options))
    parts = [splitter.push(delta) for delta in deltas]
    parts.append(splitter.finish())
    return "".join(part.reasoning for part in parts), "".join(part.content for part in parts)


@given(
    pieces=st.lists(PIECES, max_size=12),
    cuts=st.lists(st.integers(0, 80), max_size=12),
    is_open=st.booleans(),
    strips_content=st.booleans(),
)
@example(pieces=[BEGIN, "a", " ", "</", "a"], cuts=[10], is_open=False, strips_content=True)
def test_any_cut_into_deltas_splits_alike(pieces, cuts, is_open, strips_content):
    text = "".join(pieces)
    edges = [0, *sorted(cuts), len(text)]
    deltas = [text[start:end] for start, end in itertools.pairwise(edges)]
    options = {"is_open": is_open, "strips_content": strips_content}
    whole = split([text], **options)
    assert split(deltas, **options) == whole
    assert split(list(text), **options) == whole


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>sum</think>answer", False, ("sum", "answer")),
        ("\n <think>\n 1\n 2 \n</think>\n\nanswer\n", False, ("1\n 2", "answer\n")),
        ("sum</think>answer", True, ("sum", "answer")),
        ("<think>sum</think>answer", True, ("sum", "answer")),
        ("<think>sum", False, ("sum", "")),
        ("<think>sum</thin", False, ("sum</thin", "")),
        ("sum", True, ("sum", "")),
        ("<", True, ("<", "")),
        ("<think></think>answer", False, ("", "answer")),
        ("</think>answer", True, ("", "answer")),
        (" answer</think>", False, ("", " answer</think>")),
        ("<thin", False, ("", "<thin")),
        ("a<think>b</think>", False, ("", "a<think>b</think>")),
        ("<think>a</think>b<think>c</think>", False, ("a", "b<think>c</think>")),
        ("", False, ("", "")),
        ("", True, ("", "")),
    ],
)
def test_thought_and_content(text, is_open, expected):
    assert split([text], is_open=is_open) == expected


def test_text_of_the_thought_is_released_at_once():
    splitter = ThoughtSplitter(BEGIN, END, is_open=True)
    assert splitter.push("one") == ("one", "")
    assert splitter.push(" two </") == (" two", "")
    assert splitter.push("b") == (" </b", "")


def test_the_format_is_detected_by_the_tags_in_the_template():
    assert find_reasoning_format(create_template("{{ messages }}"), "auto") is None
    assert find_reasoning_format(create_template("{{ messages }}"), "think") is not None
    template = create_template("{% if a.split('</think>') %}{% endif %}")
    assert find_reasoning_format(template, "none") is None
    reasoning = find_reasoning_format(template, "auto")
    assert (reasoning.begin, reasoning.end) == (BEGIN, END)
    assert not reasoning.special_token_ids


def test_tags_that_are_special_tokens_are_single_tokens():
    tokenizer = create_tokenizer(BEGIN, END)
    ids = [tokenizer.convert_tokens_to_ids(tag) for tag in (BEGIN, END)]
    reasoning = find_reasoning_format(create_template(BEGIN, tokenizer), "auto")
    assert reasoning.special_token_ids == {*ids}
    assert (reasoning.begin_ids, reasoning.end_ids[-1]) == ((ids[0],), ids[1])


@pytest.mark.parametrize(
    ("prompt_end", "start"),
    [
        ("go<think>\n", ThoughtStart.OPEN),
        ("go<think>\n\n</think>\n\n", ThoughtStart.NONE),
        ("go</think>", ThoughtStart.NONE),
        ("<think>go", ThoughtStart.POSSIBLE),
        ("", ThoughtStart.POSSIBLE),
    ],
)
def test_the_prompt_may_open_or_close_the_thought(prompt_end, start):
    reasoning = find_reasoning_format(create_template(), "think")
    assert reasoning.start_after(prompt_end) is start


@pytest.mark.parametrize(
    ("source", "variables", "switch"),
    [
        ("{{ messages }}{{ eos_token }}{{ strftime_now('%d') }}{{ range(3) }}", set(), None),
        ("{% if enable_thinking is false %}{{ effort }}{% endif %}", None, "enable_thinking"),
        ("{% generation %}{{ thinking }}{% endgeneration %}{% break %}", {"thinking"}, "thinking"),
        ("{% set x = 1 %}{{ x }}{% for m in messages %}{{ m.thinking }}{% endfor %}", set(), None),
        ("{% broken", set(), None),
    ],
)
def test_variables_that_a_request_may_set(source, variables, switch):
    template = create_template(source)
    expected = {"enable_thinking", "effort"} if variables is None else variables
    assert template.variables == expected
    assert find_switch(template) == switch
