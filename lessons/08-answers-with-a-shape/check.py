"""Check of exercise 8."""

from typing import Any

from src.tool_calling.formats.hermes import HERMES
from src.tool_calling.parser import ContentDelta, ToolCallParser

CASES = [
    ("Hello", "<call>", ("Hello", "")),
    ("", "<call>", ("", "")),
    ("Hello <", "<call>", ("Hello ", "<")),
    ("Hello <cal", "<call>", ("Hello ", "<cal")),
    ("1 < 2", "<call>", ("1 < 2", "")),
    ("<<call", "<call>", ("<", "<call")),
    ("a<call>b", "<call>", ("a", "<call>b")),
    ("a<call>b<call>", "<call>", ("a", "<call>b<call>")),
    ("aa", "aab", ("", "aa")),
    ("aaa", "aab", ("a", "aa")),
    ("x", "x", ("", "x")),
]


def check(answer: dict[str, Any]) -> None:
    """Tries single texts, then a stream letter by letter beside the service's own parser."""
    split = answer["split"]
    for text, tag, expected in CASES:
        given = tuple(split(text, tag))
        assert given == expected, f"Text {text!r}, tag {tag!r}: {expected}, not {given}."
    parser, held = ToolCallParser(HERMES), ""
    for letter in 'If 1 < 2 or <tool box>, call.\n<tool_call>\n{"name": "f", "arguments": {}}':
        events = parser.push(letter)
        expected = "".join(event.text for event in events if isinstance(event, ContentDelta))
        if HERMES.tag in held:
            break
        shown, held = split(held + letter, HERMES.tag)
        assert shown == expected, f"A stream shows {shown!r} where {expected!r} can be shown."
