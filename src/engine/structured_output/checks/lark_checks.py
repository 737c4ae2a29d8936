"""Checks a Lark grammar in linear time: quotes, nesting, references, size.

One pass over the text, with the token definitions of llguidance's lexer. Refuses grammars that
would overflow the stack of its recursive compiler.
"""

import re

from src.engine.structured_output.checks.reference_depth import MAX_REFERENCE_DEPTH, reference_depth
from src.engine.structured_output.checks.regex_size import expanded_size

MAX_NESTING = 100
"""Levels of brackets."""

# Possessive repetitions (`*+`) never backtrack, so the scan takes linear time. An unclosed string
# or pattern has an empty `close_...` group.
_TOKENS = re.compile(
    r"""
    (?P<comment> \#[^\n]* | //[^\n]* )
  | (?P<text> " (?:\\.|[^"\\\n])*+ (?P<close_text>"?) )
  | (?P<pattern> / (?:\\.|[^/\\])++ (?P<close_pattern>/?) )
  | (?P<rule> ^ [ \t]* [!?_]* (?P<rule_name>[A-Za-z][\w\-]*) [^:"/\n]*+ : )
  | (?P<name> _? [A-Za-z][\w\-]* )
  | (?P<count> \{ [\d,\ ]+ \} )
  | (?P<times> ~ \s* (?:\d+ \s* \.\. \s*)? (?P<max_times>\d+) )
  | (?P<open> [(\[{] )
  | (?P<end> [)\]}] )
  | (?P<special> < )
    """,
    re.VERBOSE | re.MULTILINE,
)


MAX_TOKEN_SIZE = 10**5
"""Cap on the measured size of one string or pattern."""


class LarkError(Exception):
    """A Lark grammar is refused; the message gives the reason."""


def check_lark(text: str) -> int:
    """Checks a grammar and returns its size in characters with counted repetitions expanded.

    Raises:
        LarkError: a string or pattern is not closed, the grammar names a special token, or its
            brackets or references are nested too deeply.
    """
    references: dict[str, list[str]] = {}
    current: list[str] = []
    pattern: list[str] = []  # a regular expression of the grammar's size
    depth = 0
    for token in _TOKENS.finditer(text):
        _check_token(token)
        if token["rule"]:
            current = references.setdefault(token["rule_name"], [])
        elif token["name"]:
            current.append(token["name"].removeprefix("_"))
        depth += bool(token["open"]) - bool(token["end"])
        if depth > MAX_NESTING:
            raise LarkError(f"Its brackets are nested more than {MAX_NESTING} levels deep.")
        pattern.append(_as_pattern(token))
    if reference_depth(references, "start") > MAX_REFERENCE_DEPTH:
        raise LarkError(f"Its rules are nested more than {MAX_REFERENCE_DEPTH} levels deep.")
    return expanded_size("".join(pattern))


def _check_token(token: re.Match[str]) -> None:
    if (token["text"] and not token["close_text"]) or (
        token["pattern"] and not token["close_pattern"]
    ):
        line = token.string.count("\n", 0, token.start()) + 1
        raise LarkError(f"The string or pattern that begins in line {line} is not closed.")
    if token["special"]:
        raise LarkError("Special tokens are not allowed in answers: use strings.")


def _as_pattern(token: re.Match[str]) -> str:
    """Returns a regular expression of the size of a token."""
    kind = token.lastgroup
    if literal := token["text"] or token["pattern"]:  # a string in a JSON schema may be a pattern
        size = max(len(literal) - 2 if token["text"] else 1, expanded_size(literal[1:-1]))
        return "(" + "x" * min(size, MAX_TOKEN_SIZE) + ")"
    if token["times"]:
        return "{" + token["max_times"] + "}"
    if token["count"]:
        return token["count"]
    return {"open": "(", "end": ")", "name": "x"}.get(kind or "", "")
