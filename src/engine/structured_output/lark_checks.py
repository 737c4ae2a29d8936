"""Linear checks of a Lark grammar before it is compiled: quotes, nesting, references, size.

One pass over the text, by the token definitions of llguidance's own lexer. What its recursive
compiler would overflow its stack on is refused with a reason.
"""

import re

from src.engine.structured_output.reference_depth import MAX_REFERENCE_DEPTH, reference_depth
from src.engine.structured_output.regex_size import expanded_size

MAX_NESTING = 100
"""Levels of brackets."""

# Possessive repetitions (`*+`) never backtrack, so the scan takes linear time. A text or pattern
# that is not closed has an empty `close`.
_TOKENS = re.compile(
    r"""
    (?P<comment> \#[^\n]* | //[^\n]* )
  | (?P<text> " (?:\\.|[^"\\\n])*+ (?P<close_text>"?) )
  | (?P<pattern> / (?:\\.|[^/\\])++ (?P<close_pattern>/?) )
  | (?P<rule> ^ [ \t]* [!?_]* (?P<rule_name>[A-Za-z][\w\-]*) [^:"/\n]*+ : )
  | (?P<name> _? [A-Za-z][\w\-]* )
  | (?P<count> \{ [\d,\ ]+ \} )
  | (?P<times> ~ \s* (?:\d+ \s* \.\. \s*)? (?P<most>\d+) )
  | (?P<open> [(\[{] )
  | (?P<end> [)\]}] )
  | (?P<special> < )
    """,
    re.VERBOSE | re.MULTILINE,
)


MAX_TOKEN_SIZE = 10**5
"""Larger sizes of one text or pattern are not told apart."""


class LarkError(Exception):
    """A Lark grammar that is refused; the message gives the reason."""


def check_lark(text: str) -> int:
    """Checks a grammar and returns its size: characters once counted repetitions are written out.

    Raises:
        LarkError: a text or pattern is not closed, it names a special token, or it nests or refers
            too deep.
    """
    references: dict[str, list[str]] = {}
    current: list[str] = []
    pattern: list[str] = []  # the grammar as one regular expression, to measure it
    depth = 0
    for token in _TOKENS.finditer(text):
        _check_token(token)
        if token["rule"]:
            current = references.setdefault(token["rule_name"], [])
        elif token["name"]:
            current.append(token["name"].removeprefix("_"))
        depth += bool(token["open"]) - bool(token["end"])
        if depth > MAX_NESTING:
            raise LarkError(f"Brackets may be nested {MAX_NESTING} levels deep.")
        pattern.append(_as_pattern(token))
    if reference_depth(references, "start") > MAX_REFERENCE_DEPTH:
        raise LarkError(f"Rules may refer to one another {MAX_REFERENCE_DEPTH} levels deep.")
    return expanded_size("".join(pattern))


def _check_token(token: re.Match[str]) -> None:
    if (token["text"] and not token["close_text"]) or (
        token["pattern"] and not token["close_pattern"]
    ):
        line = token.string.count("\n", 0, token.start()) + 1
        raise LarkError(f"The text or pattern that begins in line {line} is not closed.")
    if token["special"]:
        raise LarkError("Special tokens are no part of answers: write texts.")


def _as_pattern(token: re.Match[str]) -> str:
    """Returns a regular expression of the same size as a token's part of the grammar."""
    kind = token.lastgroup
    if literal := token["text"] or token["pattern"]:  # inside a JSON schema a text may be a pattern
        size = max(len(literal) - 2 if token["text"] else 1, expanded_size(literal[1:-1]))
        return "(" + "x" * min(size, MAX_TOKEN_SIZE) + ")"
    if token["times"]:
        return "{" + token["most"] + "}"
    if token["count"]:
        return token["count"]
    return {"open": "(", "end": ")", "name": "x"}.get(kind or "", "")
