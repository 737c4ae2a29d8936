"""Schemas of strings that a model writes without quotes, and Lark terms that enforce them.

A schema with a keyword that cannot be enforced for such a text is none of these: its value is
written as JSON, in quotes.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

DEFINITIONS = ("$defs", "definitions")
ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "$schema", "$id", *DEFINITIONS),
    }
)
"""Keywords that restrict nothing, and the definitions for references."""

KEYWORDS = frozenset({"type", "enum", "const", "minLength", "maxLength", "pattern"})
"""Keywords that can be enforced for a text."""

NULL = {"type": "null"}
MAX_REFERENCES = 16
"""Limit on references that lead to one another."""

# Anchors inside of a pattern, lookaround and flags, boundaries, back references.
_UNUSUAL = re.compile(r"(?<!\[)\^|\$|\(\?|\\[^dDsSwWnrt./()\[\]{}*+?|\-^$]")


@dataclass(frozen=True, slots=True)
class TextSchema:
    """Schema of a text.

    Args:
        options: the allowed texts; None is any.
        min_length: minimum number of characters.
        max_length: maximum number of characters; None is any.
        pattern: pattern of the whole text; None is any.
        is_nullable: null is allowed, which is written as `null`.
    """

    options: tuple[str, ...] | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None
    is_nullable: bool = False

    @property
    def allows_empty(self) -> bool:
        return self.options is None and self.min_length == 0 and self.pattern is None

    def terms(self, terminal: str) -> str:
        """Returns Lark terms of the text; `terminal` is the name of its terminal."""
        return f'({terminal} | "null")' if self.is_nullable else terminal

    def terminal(self, name: str, close: str) -> str:
        """Returns the definition of the terminal: a text that does not contain `close`."""
        if self.options is not None:
            return f"{name}: /{'|'.join(map(escaped, self.options))}/"
        maximum = "" if self.max_length is None else self.max_length
        parts = [
            f"/(.|\\n){{{self.min_length},{maximum}}}/",
            f"~/(.|\\n)*{escaped(close)}(.|\\n)*/",
        ]
        parts += [f"/{self.pattern}/"] if self.pattern is not None else []
        return f"{name}: {' & '.join(parts)}"


def definitions_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the keywords of a schema with the definitions that references lead to."""
    return {key: schema[key] for key in DEFINITIONS if key in schema}


def read_text_schema(schema: dict[str, Any], close: str) -> TextSchema | None:
    """Returns the schema of a string without quotes; None if the value is written as JSON.

    Args:
        schema: JSON schema of a value, with the definitions that it refers to. It may be invalid,
            as it is compiled later.
        close: text after the value, which the text cannot contain.
    """
    part, is_nullable = unwrap(schema)
    text_schema = _read_string(part, close)
    if text_schema is None or not is_nullable:
        return text_schema
    return replace(text_schema, is_nullable=True)


def unwrap(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns a schema behind references and alternatives to null, and whether null is allowed.

    Annotations are left out. References without an end lead to any of their schemas.
    """
    part, is_nullable = _without_annotations(schema), False
    for _ in range(MAX_REFERENCES):
        inner = _inner(part, schema)
        if inner is None:
            break
        is_nullable = is_nullable or any(
            NULL in value for value in part.values() if isinstance(value, list)
        )
        part = _without_annotations(inner)
    return part, is_nullable


def _without_annotations(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ANNOTATIONS}


def _inner(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the schema of a reference, or the alternative to null; None if it is neither."""
    if len(part) != 1:
        return None
    ((keyword, value),) = part.items()
    inner = None
    if keyword == "$ref" and isinstance(value, str):
        sign, _, path = value.partition("/")
        place, _, name = path.partition("/")
        definitions = root.get(place) if sign == "#" and place in DEFINITIONS else None
        inner = definitions.get(name) if isinstance(definitions, dict) else None
    elif keyword in ("anyOf", "oneOf") and isinstance(value, list):
        others = [option for option in value if option != NULL]
        inner = others[0] if len(others) == 1 else None
    return inner if isinstance(inner, dict) else None


def _read_string(part: dict[str, Any], close: str) -> TextSchema | None:
    kinds = part.get("type", ["string", "null"] if "enum" in part or "const" in part else "string")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" not in kinds or any(kind not in ("string", "null") for kind in kinds):
        return None
    if not part.keys() <= KEYWORDS:
        return None
    is_nullable = "null" in kinds
    if "enum" in part or "const" in part:
        options = part.get("enum", [part.get("const")])
        return _read_options(options, close, is_nullable=is_nullable)
    shortest, longest = part.get("minLength", 0), part.get("maxLength")
    pattern = whole_pattern(part["pattern"]) if "pattern" in part else None
    has_lengths = type(shortest) is int and (longest is None or type(longest) is int)
    if not has_lengths or ("pattern" in part and pattern is None):
        return None
    return TextSchema(None, shortest, longest, pattern, is_nullable)


def _read_options(options: Any, close: str, *, is_nullable: bool) -> TextSchema | None:
    if not isinstance(options, list):
        return None
    texts = [option for option in options if option is not None]
    if not texts or not all(isinstance(text, str) and text and close not in text for text in texts):
        return None
    return TextSchema(tuple(texts), is_nullable=is_nullable and len(texts) < len(options))


def whole_pattern(pattern: Any) -> str | None:
    """Returns a pattern of all texts in which another one is found; None if that is not simple.

    Args:
        pattern: of JSON Schema, which matches anywhere in a text.
    """
    if not isinstance(pattern, str):
        return None
    body = pattern.removeprefix("^")
    before = "" if body != pattern else r"(.|\n)*"
    after = r"(.|\n)*"
    if body.endswith("$") and not body.endswith(r"\$"):
        body, after = body[:-1], ""
    is_anchored = not before or not after
    if _UNUSUAL.search(body) or (is_anchored and "|" in body) or not body.isprintable():
        return None
    body = body.replace(r"\/", "/").replace("/", r"\/")
    return f"{before}({body}){after}"


def escaped(text: str) -> str:
    """Returns a pattern of a text, for a regular expression in a Lark grammar."""
    special = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "/": r"\/"}
    return "".join(special.get(character) or re.escape(character) for character in text)
