"""Arguments as parameters between tags: strings as they are, all other values as JSON.

Qwen3-Coder's and GLM's formats. `text_schema.py` decides by its schema if a parameter is a string;
grammar and reader have to agree on that, as nothing in the answer tells `5` from `"5"`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from src.errors import InvalidSchemaError
from src.text.reasoning import prefix_length
from src.tool_calling.arguments import (
    ArgumentsReader,
    JsonScanner,
    ReadText,
    Schema,
    ToTerms,
    Values,
    json_rule,
)
from src.tool_calling.text_schema import TextSchema, definitions_of, escaped, read_text_schema

KEY = "{key}"
"""Placeholder of a parameter's name in the text before its value."""

NAME = r"[^<>\"\\\x00-\x20]+"
"""Pattern of a parameter's name."""

COMBINING = (
    *("$ref", "anyOf", "oneOf", "allOf", "not", "if", "enum", "const", "patternProperties"),
    *("propertyNames", "dependentRequired", "dependentSchemas"),
)
"""Keywords of a whole object, which a list of parameters cannot enforce."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool.

    Args:
        name: its key.
        schema: JSON schema of its value.
        is_required: calls have it.
    """

    name: str
    schema: Schema
    is_required: bool


def read_parameters(schema: Schema) -> tuple[list[Parameter], Schema | None]:
    """Returns the parameters of a tool in their order, and the schema of others; None is no others.

    Args:
        schema: JSON schema of the arguments, an object. It may be invalid, as it is compiled later.

    Raises:
        InvalidSchemaError: it needs more than a list of parameters; `field` names the keyword.
    """
    for keyword in COMBINING:
        if keyword in schema:
            raise _unenforceable(keyword)
    if schema.get("maxProperties") == 0:
        return [], None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return [], None
    unlisted: Schema = {
        name: {} for name in required if isinstance(name, str) and name not in properties
    }
    is_open = "properties" not in schema or bool(unlisted)
    others = schema.get("additionalProperties", is_open)
    parameters = [
        Parameter(name, value if isinstance(value, dict) else {}, name in required)
        for name, value in (properties | unlisted).items()
        if value is not False
    ]
    others = None if others is False else others if isinstance(others, dict) else {}
    _check_counts(schema, parameters, is_closed=others is None)
    return parameters, others


def _check_counts(schema: Schema, parameters: list[Parameter], *, is_closed: bool) -> None:
    """Raises InvalidSchemaError if the number of parameters is restricted."""
    num_required = sum(parameter.is_required for parameter in parameters)
    shortest, longest = schema.get("minProperties"), schema.get("maxProperties")
    if isinstance(shortest, int) and shortest > num_required:
        raise _unenforceable("minProperties")
    if isinstance(longest, int) and not (is_closed and longest >= len(parameters)):
        raise _unenforceable("maxProperties")


def _unenforceable(keyword: str) -> InvalidSchemaError:
    message = (
        "This model writes arguments one by one, so that this cannot be enforced for all of them:"
        " leave it out."
    )
    return InvalidSchemaError(message, (keyword,))


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Parameters, each between two texts.

    Args:
        open: text before a value, with `KEY` for the parameter's name.
        close: text after a value; begins with a character that is not part of JSON.
    """

    open: str
    close: str
    beginning: str = r"(?=<)"

    def rules(self, rule: str, schema: Schema, to_terms: ToTerms) -> str:
        parameters, others = read_parameters(schema)
        definitions = definitions_of(schema)
        sequence, lines = [], []
        for index, parameter in enumerate(parameters):
            name = f"{rule}_{index}"
            _check_name(parameter.name)
            sequence.append(name if parameter.is_required else f"{name}?")
            lines.append(f"{name}: {to_terms(self.open.replace(KEY, parameter.name))} {name}_value")
            lines += self._value_rules(f"{name}_value", definitions | parameter.schema, to_terms)
        if others is not None:
            sequence.append(f"{rule}_other*")
            names = [parameter.name for parameter in parameters]
            lines += self._other_rules(f"{rule}_other", names, definitions | others, to_terms)
        return "\n".join([f"{rule}: {' '.join(sequence) or json.dumps('')}", *lines])

    def _other_rules(
        self, rule: str, names: list[str], schema: Schema, to_terms: ToTerms
    ) -> Iterator[str]:
        """Yields rules of a parameter of any name but these."""
        before, after = (to_terms(text) for text in self.open.split(KEY))
        key = f"{rule.upper()}_KEY"
        others = f" & ~/({'|'.join(map(escaped, names))})/" if names else ""
        yield f"{rule}: {before} {key} {after} {rule}_value"
        yield f"{key}: /{NAME}/{others}"
        yield from self._value_rules(f"{rule}_value", schema, to_terms)

    def _value_rules(self, rule: str, schema: Schema, to_terms: ToTerms) -> Iterator[str]:
        """Yields rules of a value with the text after it."""
        text_schema = read_text_schema(schema, self.close)
        close = to_terms(self.close)
        if text_schema is None:
            yield f"{rule}: {rule}_json {close}"
            yield json_rule(f"{rule}_json", schema)
            return
        terminal = f"{rule.upper()}_TEXT"
        terms = text_schema.terms(terminal)
        if close == json.dumps(self.close):
            # A lazy rule is one terminal: its text ends before the first `close`.
            yield f"{rule}[lazy]: {terms} {close}"
        else:
            yield f"{rule}: {terms}{'?' * text_schema.allows_empty} {close}"
        yield text_schema.terminal(terminal, self.close)

    def create_reader(self, schema: Schema) -> ArgumentsReader:
        return TaggedReader(self, schema)

    def write(self, arguments: Values) -> str:
        return "".join(
            self.open.replace(KEY, name) + _to_text(value) + self.close
            for name, value in arguments.items()
        )


def _check_name(name: str) -> None:
    """Raises InvalidSchemaError if a parameter's name cannot be written between tags."""
    if not re.fullmatch(NAME, name):
        raise InvalidSchemaError(
            "This model writes a parameter's name between tags, so it has no spaces, quotes,"
            " backslashes or angle brackets.",
            ("properties", name),
        )


class TaggedReader:
    """Converts tagged parameters to a JSON object.

    A state machine like `ToolCallParser`: `_read` is the method for the current state.

    Args:
        notation: texts around a value.
        schema: JSON schema of the arguments.
    """

    def __init__(self, notation: TaggedArguments, schema: Schema) -> None:
        self.is_done = False
        before, after = notation.open.split(KEY)
        self._before = before
        self._open = re.compile(f"{re.escape(before)}({NAME}){re.escape(after)}")
        self._close = notation.close
        self._values, self._other_value = _value_schemas(schema, notation.close)
        self._read = self._read_open
        self._scanner = JsonScanner()
        self._separator = "{"

    def read(self, text: str) -> ReadText:
        return self._read(text)

    def _read_open(self, text: str) -> ReadText:
        """Reads the text before a value; any other text is the end of the arguments."""
        match = self._open.match(text)
        if match is not None:
            head = f"{self._separator}{json.dumps(match[1], ensure_ascii=False)}: "
            self._separator = ", "
            return self._begin_value(match[1], head, text[match.end() :])
        if self._before.startswith(text) or text.startswith(self._before):
            return ReadText("", text)
        self.is_done = True
        return ReadText("{}" if self._separator == "{" else "}", text)

    def _begin_value(self, name: str, head: str, rest: str) -> ReadText:
        schema = self._values.get(name, self._other_value)
        if schema is None:
            self._read, self._scanner = self._read_json, JsonScanner()
        elif schema.is_nullable:
            self._read = self._read_null
        else:
            self._read, head = self._read_text, head + '"'
        return ReadText(head, rest)

    def _read_null(self, text: str) -> ReadText:
        """Reads a value that is null or a text."""
        null = "null" + self._close
        if text.startswith(null):
            self._read = self._read_open
            return ReadText("null", text[len(null) :])
        if null.startswith(text):
            return ReadText("", text)
        self._read = self._read_text
        return ReadText('"', text)

    def _read_text(self, text: str) -> ReadText:
        """Reads a text up to `close`, or to a suffix that may become it."""
        value, match, rest = text.partition(self._close)
        if match:
            self._read = self._read_open
            return ReadText(escape(value) + '"', rest)
        length = len(text) - prefix_length(text, self._close)
        return ReadText(escape(text[:length]), text[length:])

    def _read_json(self, text: str) -> ReadText:
        """Reads a JSON value; in its strings `close` is text."""
        for index, character in enumerate(text):
            if character == self._close[0] and not self._scanner.is_inside:
                self._read = self._read_close
                return ReadText(text[:index], text[index:])
            self._scanner.take(character)
        return ReadText(text, "")

    def _read_close(self, text: str) -> ReadText:
        if not text.startswith(self._close):
            return ReadText("", text)
        self._read = self._read_open
        return ReadText("", text[len(self._close) :])


def _value_schemas(
    schema: Schema, close: str
) -> tuple[dict[str, TextSchema | None], TextSchema | None]:
    """Returns the schemas of parameters that are texts, by name and for others; None is JSON."""
    parameters, others = read_parameters(schema)
    definitions = definitions_of(schema)
    values = {one.name: read_text_schema(definitions | one.schema, close) for one in parameters}
    return values, read_text_schema(definitions | (others or {}), close)


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def escape(text: str) -> str:
    """Returns a text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
