"""Tool calls: detection of the format, grammars of answers, the streaming parser."""

import json
import random
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from src.engine.structured_output.source import DeadEndError
from src.errors import InvalidRequestError, InvalidSchemaError
from src.text.chat_template import ChatTemplate
from src.tool_calling.detection import find_format
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.formats import FORMATS
from src.tool_calling.formats.hermes import HERMES
from src.tool_calling.formats.llama3 import LLAMA3
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar
from src.tool_calling.parser import Answer, ArgumentsDelta, CallStarted, ToolCallParser
from tests.engine.structured_output.test_matcher import TOKENIZERS, grammars, write
from tests.support.grammars import take
from tests.support.tools import HERMES_TEMPLATE, LLAMA3_TEMPLATE

WEATHER = Tool(
    "get_weather",
    'Tells the weather </tool_call> "{}"',
    {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
            "note": {"type": "string", "maxLength": 3, "description": 'a "}</tool_call>\n'},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Rome", '}"{', "</tool_call>"]}},
    },
    ("tools", 0, "function", "parameters"),
)
CLOCK = Tool("clock")
TOOLS = (WEATHER, CLOCK)

OTHER_TEMPLATE = HERMES_TEMPLATE.replace("<tool_call>", "<call>")
TAGGED_AND_BARE = {"hermes": HERMES, "llama3": LLAMA3}


def create_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, TOKENIZERS["tiny"])


def test_the_format_of_calls_is_detected_from_the_template():
    assert find_format(create_template(HERMES_TEMPLATE), "auto") is HERMES
    assert find_format(create_template(LLAMA3_TEMPLATE), "auto") is LLAMA3
    assert find_format(create_template(OTHER_TEMPLATE), "llama3") is LLAMA3
    with pytest.raises(InvalidRequestError, match="TOOL_CALL_FORMAT"):
        find_format(create_template(OTHER_TEMPLATE), "auto")


@pytest.mark.parametrize(
    "source", ["{% if tools %}{{ raise_exception('no') }}{% endif %}", "{{ tools | length }}"]
)
@pytest.mark.parametrize("name", ["auto", "hermes"])
def test_a_template_that_reads_tools_but_lists_none_is_refused(source, name):
    with pytest.raises(InvalidRequestError, match="does not list tools"):
        find_format(create_template(source), name)


def read(
    tool_format: ToolCallFormat,
    text: str,
    sizes: list[int] | None = None,
    *,
    is_forced: bool = False,
    is_shaped: bool = False,
) -> Answer:
    """Parses a text in pieces of the given sizes; checks the order of the events."""
    parser = ToolCallParser(tool_format, is_forced=is_forced, is_shaped=is_shaped)
    answer = Answer()
    events = []
    while text:
        size = sizes.pop() if sizes else len(text)
        events += parser.push(text[:size])
        text = text[size:]
    events += parser.finish()
    for event in events:
        answer.add(event)
    assert parser.num_calls == len(answer.calls)
    assert len({call.call_id for call in answer.calls}) == len(answer.calls)
    for index in range(len(answer.calls)):
        first, *others = [event for event in events if getattr(event, "index", None) == index]
        assert isinstance(first, CallStarted)
        assert all(isinstance(event, ArgumentsDelta) for event in others)
    return answer


def parts_of(answer: Answer) -> tuple[str, list[tuple[str, str]]]:
    return answer.content, [(call.name, call.arguments) for call in answer.calls]


ROME = '{"city": "Rome", "note": "}\\"{<tool_call>"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ROME}}}\n</tool_call>'
TICK = '<tool_call>\n{"name":"clock","arguments":{}}\n</tool_call>'
BARE = f'{{"name": "get_weather", "parameters": {ROME}}}'
CUT = CALL[: CALL.index(', "note"')]
JUST_JSON = '{"name": "clock", "parameters": {}}'
READ = [
    (HERMES, "", "", []),
    (HERMES, "Hello.", "Hello.", []),
    (HERMES, "2 < 3 <tool_cal or <tool", "2 < 3 <tool_cal or <tool", []),
    (HERMES, CALL, "", [("get_weather", ROME)]),
    (HERMES, "Well: " + CALL, "Well: ", [("get_weather", ROME)]),
    (
        HERMES,
        f"a<{CALL}\n{TICK}\n{CALL}",
        "a<",
        [("get_weather", ROME), ("clock", "{}"), ("get_weather", ROME)],
    ),
    (HERMES, JUST_JSON, JUST_JSON, []),
    (HERMES, CUT, "", [("get_weather", '{"city": "Rome"')]),
    (HERMES, CALL[:30], "", []),
    (HERMES, "a<tool_call>", "a", []),
    (LLAMA3, "Hello {", "Hello {", []),
    (LLAMA3, CALL, CALL, []),
    (LLAMA3, BARE, "", [("get_weather", ROME)]),
    (LLAMA3, BARE[:-4], "", [("get_weather", ROME[:-3])]),
    (LLAMA3, '{"nam', "", []),
]


@pytest.mark.parametrize(("tool_format", "text", "content", "calls"), READ)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_calls_are_parsed_from_deltas_of_any_size(data, tool_format, text, content, calls):
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=len(text)))
    assert parts_of(read(tool_format, text, sizes)) == (content, calls)
    assert parts_of(read(tool_format, text)) == (content, calls)


SHAPED = [
    (HERMES, '{"a": "<tool_call>"}', '{"a": "<tool_call>"}', []),
    (HERMES, CALL + "\n" + TICK, "", [("get_weather", ROME), ("clock", "{}")]),
    (HERMES, "<tool_c", "", []),
    (LLAMA3, BARE, "", [("get_weather", ROME)]),
    (LLAMA3, '{"name": "clock", "b": {}}', '{"name": "clock", "b": {}}', []),
    (LLAMA3, '{"nam', '{"nam', []),
    (LLAMA3, '{"parameters": {}}', '{"parameters": {}}', []),
]


@pytest.mark.parametrize(("tool_format", "text", "content", "calls"), SHAPED)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_answer_with_a_schema_may_begin_as_a_call(data, tool_format, text, content, calls):
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=len(text)))
    assert parts_of(read(tool_format, text, sizes, is_shaped=True)) == (content, calls)


@pytest.mark.parametrize("tool_format", TAGGED_AND_BARE.values())
def test_forced_calls_have_no_text(tool_format):
    call = CALL if tool_format is HERMES else BARE
    for end in range(len(call) + 1):
        answer = read(tool_format, call[:end], is_forced=True)
        assert answer.content == ""
        assert all(ROME.startswith(parsed.arguments) for parsed in answer.calls)
    assert parts_of(answer) == ("", [("get_weather", ROME)])


def test_text_is_held_back_only_while_it_could_be_a_tag():
    parser = ToolCallParser(HERMES)
    deltas = ["a <", "tool", " b", "<tool_call", "er>", " c"]
    assert [[event.text for event in parser.push(piece)] for piece in deltas] == [
        ["a "],
        [],
        ["<tool b"],
        [],
        ["<tool_caller>"],
        [" c"],
    ]
    assert parser.finish() == []


def test_arguments_are_streamed_character_by_character():
    parser = ToolCallParser(HERMES)
    events = [event for character in CALL for event in parser.push(character)]
    assert len(events) == 1 + len(ROME)
    assert not parser.finish()


def compile_choice(choice: ToolChoice, name: str, vocabulary: str = "tiny"):
    return grammars(vocabulary).compile(tool_grammar(choice, FORMATS[name]))


def assert_calls_fit(answer: Answer, tools: tuple[Tool, ...] = TOOLS) -> None:
    by_name = {tool.name: tool for tool in tools}
    for call in answer.calls:
        arguments = json.loads(call.arguments)
        Draft202012Validator(by_name[call.name].parameters).validate(arguments)


@pytest.mark.parametrize("vocabulary", TOKENIZERS)
@pytest.mark.parametrize("name", TAGGED_AND_BARE)
def test_forced_calls_fit_their_schemas_in_every_vocabulary(name, vocabulary):
    grammar = compile_choice(ToolChoice(TOOLS, TOOLS, is_forced=True), name, vocabulary)
    counts, names = set(), set()
    for seed in range(12):
        text = write(grammar, vocabulary, seed, max_tokens=1500)
        assert text is not None
        answer = read(FORMATS[name], text, [random.Random(seed).randint(1, 7) for _ in text])
        assert answer.content == ""
        assert_calls_fit(answer)
        counts.add(min(2, len(answer.calls)))
        names.update(call.name for call in answer.calls)
    assert names == {"get_weather", "clock"}
    assert counts == ({1, 2} if name == "hermes" else {1})


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_tool_without_parallel_calls_is_called_once(name):
    choice = ToolChoice(TOOLS, (CLOCK,), is_forced=True, is_parallel=False)
    grammar = compile_choice(choice, name)
    for seed in range(6):
        answer = read(FORMATS[name], write(grammar, seed=seed))
        assert parts_of(answer) == ("", [("clock", "{}")])


@pytest.mark.parametrize(
    ("name", "text", "is_allowed"),
    [
        ("hermes", "", True),
        ("hermes", "Hello, <tool", True),
        ("hermes", "Hi " + TICK, True),
        ("hermes", TICK + "\n" + TICK, True),
        ("hermes", TICK + " and", False),
        ("hermes", "<tool_call>x", False),
        ("hermes", '<tool_call>\n{"name": "other"', False),
        ("hermes", '<tool_call>\n{"name": "clock", "arguments": {"a"', False),
        ("hermes", JUST_JSON, True),
        ("llama3", "", True),
        ("llama3", "Hello {", True),
        ("llama3", JUST_JSON, True),
        ("llama3", JUST_JSON + " ", False),
        ("llama3", '{"a"', False),
        ("llama3", TICK, True),
    ],
)
def test_a_free_answer_is_text_and_a_call_after_a_tag(name, text, is_allowed):
    matcher = compile_choice(ToolChoice(TOOLS, TOOLS), name).start(frozenset())
    token_ids = TOKENIZERS["tiny"].encode(text).ids
    with nullcontext() if is_allowed else pytest.raises(DeadEndError):
        take(matcher, *token_ids)
    if is_allowed:
        assert matcher.is_accepting


def test_a_free_answer_without_parallel_calls_has_at_most_one():
    choice = ToolChoice(TOOLS, TOOLS, is_parallel=False)
    matcher = compile_choice(choice, "hermes").start(frozenset())
    take(matcher, *TOKENIZERS["tiny"].encode("Hi " + TICK).ids)
    assert matcher.is_complete


def test_an_unsupported_schema_of_arguments_is_refused_with_its_path():
    bad = Tool("bad", None, {"properties": {"a": {"not": {}}}}, ("tools", 1, "function"))
    with pytest.raises(InvalidSchemaError) as caught:
        compile_choice(ToolChoice((CLOCK, bad), (CLOCK, bad)), "hermes")
    assert caught.value.field == ("tools", 1, "function", "properties", "a")


def test_grammar_options_in_a_schema_of_arguments_are_ignored():
    loose = Tool("loose", None, {"x-guidance": {"whitespace_flexible": True, "lenient": True}})
    choice = ToolChoice((loose,), (loose,), is_forced=True)
    matcher = compile_choice(choice, "llama3").start(frozenset())
    *token_ids, space = TOKENIZERS["tiny"].encode('{"name": "loose", "parameters": { ').ids
    take(matcher, *token_ids)
    with pytest.raises(DeadEndError):
        take(matcher, space)
