"""Arguments in Gemma 4's dialect of JSON: keys without quotes, strings between `QUOTE` tokens.

Strings have no escapes. Schemas that combine several schemas for one value are not enforced: such a
value is any value of the dialect.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from src.errors import InvalidSchemaError
from src.text.reasoning import prefix_length
from src.tool_calling.arguments import ArgumentsReader, ReadText, Schema, ToTerms, Values, json_rule
from src.tool_calling.tagged import Parameter, escape, read_parameters
from src.tool_calling.text_schema import (
    TextSchema,
    definitions_of,
    escaped,
    read_text_schema,
    unwrap,
)

QUOTE = '<|"|>'
KEY = r"[^:{}\[\],\"<>\x00-\x20]+"
"""Pattern of a key."""

SCALARS = frozenset({"integer", "number", "boolean", "null"})
MAX_DEPTH = 12
"""Levels of nested schemas that are enforced; references may have no end."""


@dataclass(frozen=True, slots=True)
class BareKeyArguments:
    """One object of the dialect."""

    beginning: str = r"(?=\{)"

    def rules(self, rule: str, schema: Schema, to_terms: ToTerms) -> str:
        writer = _RuleWriter(definitions_of(schema), to_terms(QUOTE), rule)
        lines = [*writer.object_rules(rule, schema, 0), *writer.any_rules()]
        return "\n".join(lines)

    def create_reader(self, schema: Schema) -> ArgumentsReader:
        return BareKeyReader()

    def write(self, arguments: Values) -> str:
        return _to_dialect(arguments)


class _RuleWriter:
    """Writes Lark rules of values by their schemas.

    Args:
        definitions: schemas that references lead to.
        quote: Lark terms of `QUOTE`.
        prefix: beginning of the names of all rules.
    """

    def __init__(self, definitions: Schema, quote: str, prefix: str) -> None:
        self._definitions = definitions
        self._quote = quote
        self._any = f"{prefix}_any"

    def any_rules(self) -> Iterator[str]:
        """Yields the rules of any value."""
        name, key = self._any, f"{self._any.upper()}_KEY"
        pair = f'{key} ":" {name}'
        yield (
            f'{name}: {name}_text | {name}_json | "[" ({name} ("," {name})*)? "]"'
            f' | "{{" ({pair} ("," {pair})*)? "}}"'
        )
        yield f"{key}: /{KEY}/"
        yield from self._text_rules(f"{name}_text", TextSchema())
        yield json_rule(f"{name}_json", {"type": sorted(SCALARS)})

    def object_rules(self, rule: str, schema: Schema, depth: int) -> Iterator[str]:
        """Yields the rules of an object.

        An optional property makes the comma after it optional, too. So there are two rules for the
        rest of the object from each property on: before its first property, and after it.
        """
        parameters, others = read_parameters(schema)
        yield f'{rule}: "{{" {rule}_first_0 "}}"'
        for index, parameter in enumerate(parameters):
            yield from self._property_rules(f"{rule}_{index}", parameter, depth)
            following = f"{rule}_more_{index + 1}"
            for kind, comma in (("first", ""), ("more", '"," ')):
                skip = "" if parameter.is_required else f" | {rule}_{kind}_{index + 1}"
                yield f"{rule}_{kind}_{index}: {comma}{rule}_{index} {following}{skip}"
        last = len(parameters)
        if others is None:
            yield from (f'{rule}_{kind}_{last}: ""' for kind in ("first", "more"))
            return
        names = [parameter.name for parameter in parameters]
        yield f'{rule}_first_{last}: ({rule}_other ("," {rule}_other)*)?'
        yield f'{rule}_more_{last}: ("," {rule}_other)*'
        yield from self._other_rules(f"{rule}_other", names, others, depth)

    def _property_rules(self, rule: str, parameter: Parameter, depth: int) -> Iterator[str]:
        if not re.fullmatch(KEY, parameter.name):
            raise InvalidSchemaError(
                "This model writes a property's name without quotes, so it has no spaces, quotes,"
                " colons, commas or brackets.",
                ("properties", parameter.name),
            )
        yield f"{rule}: {json.dumps(parameter.name + ':')} {rule}_value"
        yield from self._value_rules(f"{rule}_value", parameter.schema, depth)

    def _other_rules(
        self, rule: str, names: list[str], schema: Schema, depth: int
    ) -> Iterator[str]:
        key = f"{rule.upper()}_KEY"
        listed = f" & ~/({'|'.join(map(escaped, names))})/" if names else ""
        yield f'{rule}: {key} ":" {rule}_value'
        yield f"{key}: /{KEY}/{listed}"
        yield from self._value_rules(f"{rule}_value", schema, depth)

    def _value_rules(self, rule: str, schema: Schema, depth: int) -> Iterator[str]:
        schema = self._definitions | schema
        part, is_nullable = unwrap(schema)
        text_schema = read_text_schema(schema, QUOTE) if part else None
        is_nullable = is_nullable or (text_schema is not None and text_schema.is_nullable)
        inner = f"{rule}_value"
        rules = self._inner_rules(inner, part, text_schema, depth)
        if rules is None:
            yield f"{rule}: {self._any}"
            return
        yield f"{rule}: {inner}" + ' | "null"' * is_nullable
        yield from rules

    def _inner_rules(
        self, rule: str, part: Schema, text_schema: TextSchema | None, depth: int
    ) -> Iterator[str] | None:
        """Returns the rules of a value that is not null; None if its schema is not enforced."""
        if depth > MAX_DEPTH:
            return None
        if text_schema is not None:
            return self._text_rules(rule, text_schema)
        if _is_scalar(part):
            return iter([json_rule(rule, self._definitions | part)])
        if _is_simple_array(part):
            return self._array_rules(rule, part, depth + 1)
        if _is_simple_object(part):
            return self.object_rules(rule, self._definitions | part, depth + 1)
        return None

    def _array_rules(self, rule: str, schema: Schema, depth: int) -> Iterator[str]:
        shortest, longest = schema.get("minItems", 0), schema.get("maxItems")
        item = f"{rule}_item"
        most = "" if longest is None else max(longest - 1, 0)
        more = "" if most == 0 else f' ("," {item}){{{max(shortest - 1, 0)},{most}}}'
        items = f"{item}{more}" if longest != 0 else ""
        yield f'{rule}: "[" ({items}){"?" if shortest == 0 and items else ""} "]"'
        yield from self._value_rules(item, schema["items"], depth)

    def _text_rules(self, rule: str, schema: TextSchema) -> Iterator[str]:
        terminal = f"{rule.upper()}_TEXT"
        if self._quote == json.dumps(QUOTE):
            # A lazy rule is one terminal: its text ends before the next quote.
            yield f"{rule}: {self._quote} {rule}_end"
            yield f"{rule}_end[lazy]: {terminal} {self._quote}"
        else:
            empty = "?" if schema.allows_empty else ""
            yield f"{rule}: {self._quote} {terminal}{empty} {self._quote}"
        yield schema.terminal(terminal, QUOTE)


def _to_dialect(value: Any) -> str:
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_to_dialect(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_to_dialect, value)) + "]"
    return json.dumps(value)


def _is_scalar(part: Schema) -> bool:
    kinds = part.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return bool(kinds) and all(isinstance(kind, str) and kind in SCALARS for kind in kinds)


def _is_simple_array(part: Schema) -> bool:
    counts = part.get("minItems", 0), part.get("maxItems", 0)
    return (
        part.keys() <= {"type", "items", "minItems", "maxItems"}
        and part.get("type") == "array"
        and isinstance(part.get("items"), dict)
        and all(type(count) is int and count >= 0 for count in counts)
    )


def _is_simple_object(part: Schema) -> bool:
    if part.get("type") != "object":
        return False
    try:
        parameters, _ = read_parameters(part)
    except InvalidSchemaError:
        return False
    return all(re.fullmatch(KEY, parameter.name) for parameter in parameters)


class BareKeyReader:
    """Converts an object of the dialect to JSON."""

    def __init__(self) -> None:
        self.is_done = False
        self._in_string = False
        self._brackets = ""  # those that are open
        self._is_key_next = False

    def read(self, text: str) -> ReadText:
        converted = ""
        while text and not self.is_done:
            step = self._read_string(text) if self._in_string else self._read_token(text)
            converted += step.json
            if step.rest == text:
                break
            text = step.rest
        return ReadText(converted, text)

    def _read_string(self, text: str) -> ReadText:
        value, quote, rest = text.partition(QUOTE)
        if quote:
            self._in_string = False
            return ReadText(escape(value) + '"', rest)
        length = len(text) - prefix_length(text, QUOTE)
        return ReadText(escape(text[:length]), text[length:])

    def _read_token(self, text: str) -> ReadText:
        """Reads a quote, a key, or a character of a number, a word or a bracket."""
        if text.startswith(QUOTE):
            self._in_string = True
            return ReadText('"', text[len(QUOTE) :])
        if self._is_key_next and text[0] != "}":
            key, colon, rest = text.partition(":")
            if not colon:
                return ReadText("", text)
            self._is_key_next = False
            return ReadText(json.dumps(key, ensure_ascii=False) + ": ", rest)
        if QUOTE.startswith(text):
            return ReadText("", text)
        return self._read_character(text[0], text[1:])

    def _read_character(self, character: str, rest: str) -> ReadText:
        if character in "{[":
            self._brackets += character
        elif character in "}]":
            self._brackets = self._brackets[:-1]
            self.is_done = not self._brackets
        self._is_key_next = character in "{," and self._brackets.endswith("{")
        return ReadText(", " if character == "," else character, rest)
