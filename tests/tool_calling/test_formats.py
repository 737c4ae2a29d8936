"""Every format of calls: detection, grammar and parser agree with its template and transformers."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall
from src.tool_calling.detection import find_format
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.formats import FORMATS
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar
from src.tool_calling.parser import Answer, ToolCallParser
from tests.engine.structured_output.test_matcher import TOKENIZERS, grammars, write
from tests.support.grammars import Grammars, take
from tests.support.tiny_models import create_tokenizer
from tests.support.tool_formats import FORMATS as EXPECTED
from tests.support.tool_formats import TEMPLATES
from tests.tool_calling.test_tool_calling import (
    CLOCK,
    TOOLS,
    WEATHER,
    assert_calls_fit,
    create_template,
)

ANY = Tool(
    "mcp.server.any",
    "Takes values of all kinds.",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "ratio": {"type": "number"},
            "flag": {"type": "boolean"},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "items": {"type": "array", "items": {"type": "string"}},
            "nested": {
                "type": "object",
                "properties": {"deep": {"type": "object", "properties": {"x": {"type": "string"}}}},
            },
            "either": {"type": ["string", "integer"]},
        },
    },
    ("tools", 1),
)
VALUES = {
    "text": ' two\nlines, "quoted" \\ </tool_calls> {x: 1} é\u2028',
    "count": -3,
    "ratio": 0.5,
    "flag": True,
    "maybe": None,
    "items": ["a", "b, c"],
    "nested": {"deep": {"x": "} <"}},
}


def render(name: str, *calls: tuple[str, dict[str, object]]) -> str:
    """Returns calls as the format's template writes them."""
    made = tuple(MessageToolCall(f"callid00{i}", *call) for i, call in enumerate(calls))
    template = create_template(TEMPLATES[name])
    text = template.render([ChatMessage("assistant", "", made)])
    return text.removeprefix("assistant: ")


def read(tool_format: ToolCallFormat, text: str, sizes: list[int]) -> Answer:
    parser, answer = ToolCallParser(tool_format, (WEATHER, CLOCK, ANY)), Answer()
    while text:
        size = sizes.pop() if sizes else len(text)
        for event in parser.push(text[:size]):
            answer.add(event)
        text = text[size:]
    for event in parser.finish():
        answer.add(event)
    return answer


def parsed(answer: Answer) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


def accepts(grammar, text: str) -> bool:
    matcher = grammar.start(frozenset())
    take(matcher, *TOKENIZERS["tiny"].encode(text).ids)
    return matcher.is_accepting


def test_every_format_has_a_case():
    assert EXPECTED.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_detected_from_its_template(name):
    assert find_format(create_template(TEMPLATES[name]), "auto") is FORMATS[name]


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_calls_are_read_as_the_template_writes_them(name, data):
    calls = [(ANY.name, VALUES), ("clock", {}), (ANY.name, {"text": ""})]
    calls = calls[: 1 if FORMATS[name].separator is None else 3]
    text = render(name, *calls)
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=len(text)))
    answer = read(FORMATS[name], text, sizes)
    assert answer.content == ""
    assert parsed(answer) == calls


@pytest.mark.parametrize("name", FORMATS)
def test_the_grammar_accepts_calls_as_the_template_writes_them(name):
    tools = (ANY, CLOCK)
    grammar = grammars("tiny").compile(tool_grammar(ToolChoice(tools, tools), FORMATS[name]))
    calls = [(ANY.name, VALUES), ("clock", {})]
    calls = calls[: 1 if FORMATS[name].separator is None else 2]
    assert accepts(grammar, ("Well. " if FORMATS[name].tag else "") + render(name, *calls))
    assert accepts(grammar, EXPECTED[name].example)


@pytest.mark.parametrize("name", [name for name, known in EXPECTED.items() if known.calls])
def test_transformers_reads_the_same_calls(name):
    values = {"city": "Rome", "note": 'a "b'}
    calls = [("weather", values), ("clock", {})]
    text = ("" if name == "mistral_v3" else "Well.") + render(name, *calls)
    message = parse_response(text, EXPECTED[name].response_template, prefix="")
    theirs = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]
    ]
    ours = read(FORMATS[name], text, [])
    assert parsed(ours) == theirs == calls
    assert ours.content == message.get("content", "")


@pytest.mark.parametrize("name", FORMATS)
def test_required_calls_fit_their_schemas(name):
    choice = ToolChoice(TOOLS, TOOLS, is_forced=True)
    grammar = grammars("tiny").compile(tool_grammar(choice, FORMATS[name]))
    names, counts = set(), set()
    for seed in range(5):
        text = write(grammar, "tiny", seed, max_tokens=1500)
        assert text is not None
        answer = read(FORMATS[name], text, [random.Random(seed).randint(1, 7) for _ in text])
        assert answer.content == ""
        assert_calls_fit(answer)
        names |= {call.name for call in answer.calls}
        counts.add(min(len(answer.calls), 2))
    assert names == {"get_weather", "clock"}
    assert counts == {1} if FORMATS[name].separator is None else {1, 2}


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.markers])
def test_markers_that_are_special_tokens_are_generated_as_such(name):
    markers = FORMATS[name].markers
    tokenizer = create_tokenizer(*markers).backend_tokenizer
    tool_format = find_format(ChatTemplate(TEMPLATES[name], {}, tokenizer), "auto")
    assert dict(tool_format.special_tokens).keys() == set(markers)
    source = tool_grammar(ToolChoice((ANY, CLOCK), (ANY, CLOCK)), tool_format)
    grammar = Grammars(tokenizer, tokenizer.get_vocab_size()).compile(source)
    text = "Well. " + render(name, (ANY.name, VALUES), ("clock", {}))
    encoder = type(tokenizer).from_str(tokenizer.to_str())
    encoder.encode_special_tokens = False
    matcher = grammar.start(frozenset())
    take(matcher, *encoder.encode(text).ids)
    assert matcher.is_accepting
