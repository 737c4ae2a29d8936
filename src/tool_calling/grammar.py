"""Tools of a request, and a Lark grammar that makes calls fit the tools' schemas.

Tools are plain dataclasses; each API converts its own. `format.py` has the formats of calls, and
`parser.py` reads calls from generated text.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from src.engine.structured_output.source import (
    JSON_OPTIONS,
    JSON_SIGN,
    GrammarSource,
    schema_source,
)
from src.errors import FieldPath, InvalidRequestError
from src.tool_calling.format import LLAMA3, ToolCallFormat

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
    lark = [start, f"body: {bodies}", 'SPACE: " "', *rules]
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
    if not is_closed or {"name", LLAMA3.arguments_key} <= properties.keys():
        raise InvalidRequestError(
            "This model writes tool calls as bare JSON objects, for which such an answer could be"
            " mistaken: with tools a schema needs type object, additionalProperties false, and at"
            " most one of the properties name and parameters.",
            answer_schema.field,
        )


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    return {"type": "object"} | tool.parameters


def _tool_rules(index: int, tool: Tool, tool_format: ToolCallFormat) -> str:
    """Returns the rules of one tool's JSON object."""
    # One terminal for each JSON token, as in free JSON: a prefix of a call may turn out to be none.
    key = f'"{tool_format.arguments_key}"'
    pieces = [["{", '"name"', ":"], [f'"{tool.name}"', ","], [key, ":"]]
    head = " SPACE? ".join(" ".join(map(json.dumps, piece)) for piece in pieces)
    schema = json.dumps(_arguments_schema(tool) | {"x-guidance": JSON_OPTIONS})
    rule = f'tool_{index}: {head} SPACE? arguments_{index} "}}"'
    return f"{rule}\narguments_{index}{JSON_SIGN}{schema}"


def _forced_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    """Returns the rules of answers of calls alone."""
    return f"start: calls\n{_call_rules(choice, tool_format)}"


def _schema_rules(
    choice: ToolChoice, tool_format: ToolCallFormat, answer_schema: GrammarSource
) -> str:
    """Returns the rules of answers of calls, or else of JSON by a schema."""
    schema = json.dumps(json.loads(answer_schema.text) | {"x-guidance": JSON_OPTIONS})
    rules = f"start: calls | content\ncontent{JSON_SIGN}{schema}"
    return f"{rules}\n{_call_rules(choice, tool_format)}"


def _call_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    begin, end = (_lark_terms(tag, tool_format) for tag in (tool_format.begin, tool_format.end))
    more = ""
    if tool_format.separator is not None and choice.is_parallel:
        more = f" ({_lark_terms(tool_format.separator, tool_format)} call)*"
    return f"calls: call{more}\ncall: {begin} body {end}"


def _free_rules(choice: ToolChoice, tool_format: ToolCallFormat) -> str:
    """Returns the rules of text followed by calls: a tag, or a first brace, begins a call."""
    tag = tool_format.tag
    if not tag:
        return "start: TEXT? | body\nTEXT: /[^{](.|\\n)*/"
    rest = tool_format.begin.removeprefix(tag)
    more = ""
    if tool_format.separator is not None and choice.is_parallel:
        more = f" ({_lark_terms(tool_format.separator + tag, tool_format)} call)*"
    special = ""
    if tool_format.special_tokens:
        special = f" | TEXT? {_lark_terms(tag, tool_format)} call{more}"
    return (
        f"start: TEXT | head call{more}{special}\n"
        f"head[lazy]: TEXT {json.dumps(tag)}\n"  # also for a tag that is spelled letter by letter
        "TEXT: /(.|\\n)*/\n"
        f"call: {_lark_terms(rest, tool_format)} body {_lark_terms(tool_format.end, tool_format)}"
    )


def _lark_terms(text: str, tool_format: ToolCallFormat) -> str:
    """Returns a text as Lark terms: string literals, and special tokens by their ids."""
    for tag, token_id in tool_format.special_tokens:
        before, match, after = text.partition(tag)
        if match:
            terms = (_lark_terms(before, tool_format), f"<[{token_id}]>")
            return " ".join(term for term in (*terms, _lark_terms(after, tool_format)) if term)
    return json.dumps(text) if text else ""
