"""Calls of tools: which may be made, and the grammar that makes them fit the tools.

It knows no API: tools are plain dataclasses, for whoever has a shape of its own for them.
`format.py` has the ways to write calls, `parser.py` reads calls in generated text.
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
        description: what it does, for the model.
        parameters: the JSON schema of its arguments, an object.
        field: where that stands in the request, for errors.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] = dataclasses.field(default_factory=lambda: NO_ARGUMENTS)
    field: FieldPath = ("tools",)

    def described(self) -> dict[str, Any]:
        """As chat templates read it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function | {"parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the answer may or must call.

    Args:
        tools: all that the model is told of.
        callable_tools: those of them that may be called, at least one.
        is_forced: the answer is a call, and no text.
        is_parallel: it may be several calls.
    """

    tools: tuple[Tool, ...]
    callable_tools: tuple[Tool, ...]
    is_forced: bool = False
    is_parallel: bool = True


def tool_grammar(
    choice: ToolChoice, written: ToolCallFormat, shape: GrammarSource | None = None
) -> GrammarSource:
    """The grammar of answers that call tools as they may be called.

    Args:
        choice: which may or must be called.
        written: how.
        shape: a JSON schema of answers that call none; None is any text.

    Raises:
        InvalidRequestError: an answer of this shape could not be told from a call.
    """
    if shape is not None and not choice.is_forced and not written.tag:
        _check_is_no_call(shape)
    rules = [_tool_rules(index, tool, written) for index, tool in enumerate(choice.callable_tools)]
    bodies = " | ".join(f"tool_{index}" for index in range(len(rules)))
    if choice.is_forced:
        start = _forced_rules(choice, written)
    elif shape is not None:
        start = _shaped_rules(choice, written, shape)
    else:
        start = _free_rules(choice, written)
    lark = [start, f"body: {bodies}", 'SPACE: " "', *rules]
    parts = tuple(_arguments_source(tool) for tool in choice.callable_tools)
    if shape is not None:
        parts = (*parts, shape)
    special = frozenset(token_id for _, token_id in written.special)
    return GrammarSource("lark", "\n".join(lark), ("tools",), parts, special)


def _check_is_no_call(shape: GrammarSource) -> None:
    """A call without a tag is a JSON object that has a name and parameters."""
    schema = json.loads(shape.text)
    properties = schema.get("properties", {})
    is_closed = schema.get("type") == "object" and schema.get("additionalProperties") is False
    if not is_closed or {"name", LLAMA3.arguments} <= properties.keys():
        raise InvalidRequestError(
            "This model writes calls as bare JSON objects, from which such an answer could not be"
            " told: beside tools a schema needs type object and additionalProperties false, and"
            " not both of the properties name and parameters.",
            shape.field,
        )


def _arguments_source(tool: Tool) -> GrammarSource:
    return schema_source(_arguments_schema(tool), tool.field)


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    return {"type": "object"} | tool.parameters


def _tool_rules(index: int, tool: Tool, written: ToolCallFormat) -> str:
    # Signs and texts by themselves, as in JSON: what is read may yet turn out to be no call.
    pieces = [["{", '"name"', ":"], [f'"{tool.name}"', ","], [f'"{written.arguments}"', ":"]]
    head = " SPACE? ".join(" ".join(map(json.dumps, piece)) for piece in pieces)
    schema = json.dumps(_arguments_schema(tool) | {"x-guidance": JSON_OPTIONS})
    rule = f'tool_{index}: {head} SPACE? arguments_{index} "}}"'
    return f"{rule}\narguments_{index}{JSON_SIGN}{schema}"


def _forced_rules(choice: ToolChoice, written: ToolCallFormat) -> str:
    return f"start: calls\n{_call_rules(choice, written)}"


def _shaped_rules(choice: ToolChoice, written: ToolCallFormat, shape: GrammarSource) -> str:
    """Calls, or else JSON that a schema allows."""
    schema = json.dumps(json.loads(shape.text) | {"x-guidance": JSON_OPTIONS})
    rules = f"start: calls | content\ncontent{JSON_SIGN}{schema}"
    return f"{rules}\n{_call_rules(choice, written)}"


def _call_rules(choice: ToolChoice, written: ToolCallFormat) -> str:
    begin, end = _quoted(written.begin, written), _quoted(written.end, written)
    more = ""
    if written.separator is not None and choice.is_parallel:
        more = f" ({_quoted(written.separator, written)} call)*"
    return f"calls: call{more}\ncall: {begin} body {end}"


def _free_rules(choice: ToolChoice, written: ToolCallFormat) -> str:
    """Text, and then calls; a tag in the text, or a brace at its beginning, is a call's."""
    if not written.tag:
        return "start: TEXT? | body\nTEXT: /[^{](.|\\n)*/"
    rest = written.begin.removeprefix(written.tag)
    more = ""
    if written.separator is not None and choice.is_parallel:
        more = f" ({_quoted(written.separator + written.tag, written)} call)*"
    token = _quoted(written.tag, written)
    by_token = f" | TEXT? {token} call{more}" if written.special else ""
    return (
        f"start: TEXT | head call{more}{by_token}\n"
        f"head[lazy]: TEXT {json.dumps(written.tag)}\n"  # also where it could be a token
        "TEXT: /(.|\\n)*/\n"
        f"call: {_quoted(rest, written)} body {_quoted(written.end, written)}"
    )


def _quoted(text: str, written: ToolCallFormat) -> str:
    """As grammars name it: texts, and special tokens by their ids."""
    for tag, token_id in written.special:
        before, found, after = text.partition(tag)
        if found:
            pieces = (_quoted(before, written), f"<[{token_id}]>", _quoted(after, written))
            return " ".join(piece for piece in pieces if piece)
    return json.dumps(text) if text else ""
