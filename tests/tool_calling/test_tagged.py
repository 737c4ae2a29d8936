"""Arguments as parameters between tags: strings as they are, other values as JSON."""

import json

import pytest

from src.engine.structured_output.source import DeadEndError
from src.errors import InvalidSchemaError
from src.tool_calling.formats.gemma4 import GEMMA4
from src.tool_calling.formats.qwen3_coder import QWEN3_CODER
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar
from src.tool_calling.parser import Answer, ToolCallParser
from tests.engine.structured_output.test_matcher import TOKENIZERS, grammars
from tests.support.grammars import take

TEXT = {"type": "string"}
REFUSED = object()

VALUES = [
    (TEXT, "", ""),
    (TEXT, 'a\n"b" \\ </parameter', 'a\n"b" \\ </parameter'),
    ({"description": "Any value."}, "5", "5"),
    (TEXT | {"maxLength": 2}, "ab", "ab"),
    (TEXT | {"maxLength": 2}, "abc", REFUSED),
    (TEXT | {"minLength": 2}, "a", REFUSED),
    ({"enum": ["a", "b/c"]}, "b/c", "b/c"),
    ({"enum": ["a", "b/c"]}, "c", REFUSED),
    ({"const": "on"}, "on", "on"),
    (TEXT | {"pattern": "^[a-z]+/$"}, "ab/", "ab/"),
    (TEXT | {"pattern": "^[a-z]+/$"}, "ab", REFUSED),
    (TEXT | {"pattern": "b|d"}, "abc", "abc"),
    (TEXT | {"pattern": "b|d"}, "ac", REFUSED),
    (TEXT | {"pattern": "^a|d$"}, '"ab"', "ab"),
    (TEXT | {"format": "date"}, '"2026-02-03"', "2026-02-03"),
    (TEXT | {"format": "date"}, "2026-02-03", REFUSED),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "null"]}, "nullable", "nullable"),
    ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, "null", None),
    ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, "b", REFUSED),
    ({"enum": ["a", None]}, "null", None),
    ({"enum": ["a", 1]}, '"a"', "a"),
    ({"enum": ["a", 1]}, "1", 1),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
    ({"type": ["string", "integer"]}, '"5"', "5"),
    ({"type": ["string", "integer"]}, "five", REFUSED),
    ({"$ref": "#/$defs/short"}, "ab", "ab"),
    ({"$ref": "#/$defs/short"}, "abcd", REFUSED),
    ({"$ref": "#/$defs/again"}, "ab", "ab"),
    ({"type": "array", "items": {"$ref": "#/$defs/short"}}, '["ab"]', ["ab"]),
    ({"type": "boolean"}, "True", REFUSED),
    ({"type": "integer", "maximum": 9}, "10", REFUSED),
]
DEFINITIONS = {"short": TEXT | {"maxLength": 3}, "again": {"$ref": "#/$defs/short"}}


def call(tool: Tool, tool_format, text: str) -> object:
    """Returns the arguments of a call with this text, or REFUSED."""
    source = tool_grammar(ToolChoice((tool,), (tool,), is_forced=True), tool_format)
    matcher = grammars("tiny").compile(source).start(frozenset())
    try:
        take(matcher, *TOKENIZERS["tiny"].encode(text).ids)
    except DeadEndError:
        return REFUSED
    if not matcher.is_accepting:
        return REFUSED
    parser, answer = ToolCallParser(tool_format, (tool,), is_forced=True), Answer()
    for character in text:
        for event in parser.push(character):
            answer.add(event)
    return json.loads(answer.calls[0].arguments)


def qwen(**values: str) -> str:
    texts = [f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items()]
    return f"<tool_call>\n<function=f>\n{''.join(texts)}</function>\n</tool_call>"


def gemma(text: str) -> str:
    return f"<|tool_call>call:f{{{text}}}<tool_call|>"


@pytest.mark.parametrize(("schema", "text", "value"), VALUES)
def test_a_value_is_read_by_its_schema(schema, text, value):
    properties = {"type": "object", "properties": {"v": schema}, "$defs": DEFINITIONS}
    found = call(Tool("f", None, properties | {"required": ["v"]}), QWEN3_CODER, qwen(v=text))
    assert found == (value if value is REFUSED else {"v": value})


@pytest.mark.parametrize(
    ("schema", "values", "is_allowed"),
    [
        ({"properties": {"a": TEXT, "b": TEXT}, "required": ["b"]}, {"b": "x"}, True),
        ({"properties": {"a": TEXT, "b": TEXT}, "required": ["b"]}, {"a": "x"}, False),
        ({"properties": {"a": TEXT}}, {"b": "x"}, False),
        ({"properties": {"a": TEXT}, "additionalProperties": True}, {"b": "x"}, True),
        ({"properties": {"a": TEXT}, "additionalProperties": {"type": "null"}}, {"b": "1"}, False),
        ({}, {"anything": "goes"}, True),
        ({"required": ["a"]}, {"b": "x"}, False),
        ({"maxProperties": 0}, {}, True),
        ({"maxProperties": 0}, {"b": "x"}, False),
    ],
)
def test_parameters_are_those_of_the_schema(schema, values, is_allowed):
    found = call(Tool("f", None, schema), QWEN3_CODER, qwen(**values))
    assert found == (values if is_allowed else REFUSED)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"properties": {"a": TEXT, "b": TEXT}}, 'b:<|"|>x<|"|>', {"b": "x"}),
        ({"properties": {"a": TEXT}, "required": ["a"]}, "", REFUSED),
        ({"properties": {"a": TEXT}}, 'a:<|"|>x<|"|>,', REFUSED),
        ({"properties": {"a": {"type": ["string", "null"]}}}, "a:null", {"a": None}),
        ({"properties": {"a": {"type": "array", "items": TEXT, "maxItems": 1}}}, "a:[]", {"a": []}),
        (
            {"properties": {"a": {"type": "array", "items": {"type": "integer"}, "maxItems": 1}}},
            "a:[1,2]",
            REFUSED,
        ),
        ({"properties": {"a": {"properties": {"b": TEXT}, "type": "object"}}}, "a:{c:1}", REFUSED),
        ({"properties": {"a": {}}}, 'a:{c:[1,<|"|>"<|"|>]}', {"a": {"c": [1, '"']}}),
        ({}, 'x:<|"|>y<|"|>,z:1', {"x": "y", "z": 1}),
    ],
)
def test_a_dialect_of_json_has_keys_without_quotes(schema, text, value):
    assert call(Tool("f", None, schema), GEMMA4, gemma(text)) == value


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("anyOf", {"properties": {"a": TEXT}, "anyOf": [{"required": ["a"]}]}),
        ("minProperties", {"properties": {"a": TEXT}, "minProperties": 1}),
        ("maxProperties", {"properties": {"a": TEXT, "b": TEXT}, "maxProperties": 1}),
        ("maxProperties", {"maxProperties": 1}),
    ],
)
@pytest.mark.parametrize("tool_format", [QWEN3_CODER, GEMMA4])
def test_a_schema_of_the_whole_is_refused(tool_format, keyword, schema):
    tool = Tool("f", None, schema, ("tools", 3, "parameters"))
    with pytest.raises(InvalidSchemaError) as caught:
        tool_grammar(ToolChoice((tool,), (tool,)), tool_format)
    assert caught.value.field == ("tools", 3, "parameters", keyword)


@pytest.mark.parametrize("tool_format", [QWEN3_CODER, GEMMA4])
def test_a_name_that_the_format_cannot_write_is_refused(tool_format):
    tool = Tool("f", None, {"properties": {"a b": TEXT}}, ("tools", 0, "parameters"))
    with pytest.raises(InvalidSchemaError) as caught:
        tool_grammar(ToolChoice((tool,), (tool,)), tool_format)
    assert caught.value.field == ("tools", 0, "parameters", "properties", "a b")


@pytest.mark.parametrize("tool_format", [QWEN3_CODER, GEMMA4])
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"a": 5}},
        {"properties": {"a": {"enum": 5}}, "required": "a"},
        {"properties": {"a": {"anyOf": 5}}},
        {"properties": {"a": {"type": [{}]}}},
        {"properties": {"a": {"type": "array", "items": 5, "minItems": "x"}}},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": 5},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"additionalProperties": 5, "required": [5]},
        {"minProperties": "x", "maxProperties": []},
    ],
)
def test_an_invalid_schema_is_left_to_the_compiler(tool_format, schema):
    tool = Tool("f", None, schema)
    tool_grammar(ToolChoice((tool,), (tool,)), tool_format)
    tool_format.arguments.create_reader(schema)
