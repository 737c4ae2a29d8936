"""Tools of a request, and a Lark grammar that makes calls fit the tools' schemas.

Tools are plain dataclasses; each API converts its own. `formats/` has the formats of calls, and
`parser.py` reads calls from generated text.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import FieldPath, InvalidRequestError, InvalidSchemaError
from src.tool_calling.arguments import json_rule
from src.tool_calling.format import PATTERNS, SHORT_ID, Pieces, ToolCallFormat, named

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Args:
        name: letters, digits, `_` and `-`.
        description: purpose of the tool, for the model.
        parameters: JSON schema of the arguments, an object.
        field: path of the schema in the request's body.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] = dataclasses.field(default_factory=lambda: NO_ARGUMENTS)
    field: FieldPath = ("tools",)

    def to_template(self) -> dict[str, Any]:
        """Returns the tool in OpenAI's format, which chat templates read."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function | {"parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Tools that the answer may or must call.

    Args:
        tools: all tools in the prompt.
        callable_tools: those that the answer may call, at least one.
        is_forced: the answer is calls alone, without text.
        is_parallel: the answer may have several calls.
    """

    tools: tuple[Tool, ...]
    callable_tools: tuple[Tool, ...]
    is_forced: bool = False
    is_parallel: bool = True


def tool_grammar(
    choice: ToolChoice, tool_format: ToolCallFormat, answer_schema: GrammarSource | None = None
) -> GrammarSource:
    """Returns the grammar of answers with calls.

    Args:
        choice: tools that the answer may or must call.
        tool_format: the model's format of calls.
        answer_schema: JSON schema of answers without calls; None is any text.

    Raises:
        InvalidRequestError: an answer of this schema could be mistaken for a call.
    """
    if answer_schema is not None and not choice.is_forced and not tool_format.tag:
        _check_differs_from_call(answer_schema)
    if choice.is_forced:
        start = _forced_rules(choice, tool_format)
    elif answer_schema is not None:
        start = _schema_rules(choice, tool_format, answer_schema)
    else:
        start = _free_rules(choice, tool_format)
    tools = choice.callable_tools
    bodies = " | ".join(f"tool_{index}" for index in range(len(tools)))
    rules = [_tool_rules(index, tool, tool_format) for index, tool in enumerate(tools)]
    lark = [start, f"body: {bodies}", 'SPACE: " "', f"SHORT_ID: /{SHORT_ID}/", *rules]
    parts = tuple(schema_source(_arguments_schema(tool), tool.field) for tool in tools)
    if answer_schema is not None:
        parts = (*parts, answer_schema)
    special = frozenset(token_id for _, token_id in tool_format.special_tokens)
    return GrammarSource("lark", "\n".join(lark), ("tools",), parts, special)


def _check_differs_from_call(answer_schema: GrammarSource) -> None:
    """Refuses schemas that allow a call without a tag: a JSON object with name and parameters."""
    schema = json.loads(answer_schema.text)
    properties = schema.get("properties", {})
    is_closed = schema.get("type") == "object" and schema.get("additionalProperties") is False
    if not is_closed or {"name", "parameters"} <= properties.keys():
        raise InvalidRequestError(
            "This model writes tool calls as bare JSON objects, for which such an answer could be"
            " mistaken: with tools a schema needs type object, additionalProperties false, and at"
            " most one of the properties name and parameters.",
            answer_schema.field,
        )


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    return {"type": "object"} | tool.parameters


def _tool_rules(index: int, tool: Tool, tool_format: ToolCallFormat) -> str:
    """Returns the rules of a call of one tool."""
    head = _terms(named(tool_format.head, tool.name), tool_format)
    tail = _terms(tool_format.tail, tool_format)
    to_terms = partial(_text_terms, tool_format=tool_format)
    schema, rule = _arguments_schema(tool), f"arguments_{index}"
    try:
        arguments = tool_format.arguments.rules(rule, schema, to_terms)
    except InvalidSchemaError as error:
        raise InvalidSchemaError(str(error), (*tool.field, *error.field)) from None
    return f"tool_{index}: {head} arguments_{index} {tail}\n{arguments}"


def _forced_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    """Returns the rules of answers of calls alone."""
    tag = _text_terms(tool_format.tag, tool_format)
    return f"start: {tag} calls\n{_call_rules(choice, tool_format)}"


def _schema_rules(
    choice: ToolChoice, tool_format: ToolCallFormat, answer_schema: GrammarSource
) -> str:
    """Returns the rules of answers of calls, or else of JSON by a schema."""
    tag = _text_terms(tool_format.tag, tool_format)
    rules = [f"start: {tag} calls | content", _call_rules(choice, tool_format)]
    return "\n".join([*rules, json_rule("content", json.loads(answer_schema.text))])


def _free_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    """Returns the rules of text followed by calls: a tag, or a first brace, begins a call."""
    tag = tool_format.tag
    if not tag:
        return "start: TEXT? | body\nTEXT: /[^{](.|\\n)*/"
    special = ""
    if tag in dict(tool_format.special_tokens):
        special = f" | TEXT? {_text_terms(tag, tool_format)} calls"
    return (
        f"start: TEXT | head calls{special}\n"
        f"head[lazy]: TEXT {json.dumps(tag)}\n"  # also for a tag that is spelled letter by letter
        f"TEXT: /(.|\\n)*/\n{_call_rules(choice, tool_format)}"
    )


def _call_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    """Returns the rule of the calls, without the tag before them."""
    begin, end = (_terms(pieces, tool_format) for pieces in (tool_format.begin, tool_format.end))
    more = ""
    if tool_format.separator is not None and choice.is_parallel:
        more = f"({_terms(tool_format.separator, tool_format)} body)*"
    return f"calls: {begin} body {more} {end}"


def _terms(pieces: Pieces, tool_format: ToolCallFormat) -> str:
    """Returns pieces of a format as Lark terms."""
    return " ".join(PATTERNS.get(piece) or _text_terms(piece, tool_format) for piece in pieces)


def _text_terms(text: str, tool_format: ToolCallFormat) -> str:
    """Returns a text as Lark terms: string literals, and special tokens by their ids."""
    for marker, token_id in tool_format.special_tokens:
        before, match, after = text.partition(marker)
        if match:
            terms = (_text_terms(before, tool_format), f"<[{token_id}]>")
            return " ".join(term for term in (*terms, _text_terms(after, tool_format)) if term)
    return json.dumps(text) if text else ""
