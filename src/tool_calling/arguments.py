"""Notations of a call's arguments: their grammar, and their conversion to JSON in a stream."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from src.engine.structured_output.source import JSON_OPTIONS, JSON_SIGN

Schema = dict[str, Any]
"""JSON schema of a tool's arguments."""

Values = dict[str, Any]
"""Arguments of a call by their names."""

ToTerms = Callable[[str], str]
"""Converts a text to Lark terms: string literals, and special tokens by their ids."""


class ReadText(NamedTuple):
    """A step of a reader: JSON text to emit, and text that is not consumed."""

    json: str
    rest: str


class ArgumentsReader(Protocol):
    """Converts the arguments of one call to JSON as they are generated."""

    @property
    def is_done(self) -> bool: ...

    def read(self, text: str) -> ReadText:
        """Takes text; at the end of the arguments sets `is_done`, and leaves the text after it."""


class Arguments(Protocol):
    """A notation of arguments."""

    @property
    def beginning(self) -> str:
        """Regular expression of the text that follows a call's head; consumes nothing."""

    def rules(self, rule: str, schema: Schema, to_terms: ToTerms) -> str:
        """Returns Lark rules of arguments by a schema.

        Args:
            rule: name of the rule; names of further rules begin with it.
            schema: JSON schema of the arguments, an object.
            to_terms: converts texts of the notation.
        """

    def create_reader(self, schema: Schema) -> ArgumentsReader:
        """Returns a reader of the arguments of one call."""

    def write(self, arguments: Values) -> str:
        """Returns arguments in the notation, for a prompt."""


def json_rule(rule: str, schema: Schema) -> str:
    """Returns the Lark rule of a JSON value, which is a line of its own."""
    return f"{rule}{JSON_SIGN}{json.dumps(schema | {'x-guidance': JSON_OPTIONS})}"


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """Arguments as one JSON object."""

    beginning: str = r"(?=\{)"

    def rules(self, rule: str, schema: Schema, to_terms: ToTerms) -> str:
        return json_rule(rule, schema)

    def create_reader(self, schema: Schema) -> ArgumentsReader:
        return JsonObjectReader()

    def write(self, arguments: Values) -> str:
        return json.dumps(arguments, ensure_ascii=False)


JSON_ARGUMENTS = JsonArguments()


class JsonScanner:
    """Tells the inside of JSON values from the text around them, by counting brackets."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def is_inside(self) -> bool:
        """True in a string, an object or an array."""
        return self._depth > 0 or self._in_string

    def take(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "]}":
            self._depth -= 1


class JsonObjectReader:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self.is_done = False
        self._scanner = JsonScanner()

    def read(self, text: str) -> ReadText:
        for index, character in enumerate(text):
            self._scanner.take(character)
            if not self._scanner.is_inside:
                self.is_done = True
                return ReadText(text[: index + 1], text[index + 1 :])
        return ReadText(text, "")
