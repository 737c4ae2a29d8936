"""Check of exercise 10."""

from collections.abc import Iterator
from typing import Any

EXPECTED = ['{"text": "Once"}', '{"text": " data: x"}']
EVENTS = [f"data: {EXPECTED[0]}", ": ping", f"data: {EXPECTED[1]}", "data: [DONE]", "data: late"]
STREAM = "".join(f"{event}\n\n" for event in EVENTS)


def cut(text: str, size: int) -> Iterator[str]:
    """Yields a text in pieces of a size."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def check(answer: dict[str, Any]) -> None:
    """Delivers a stream in pieces of all sizes, then one that is cut off."""
    read_events = answer["read_events"]
    next(iter(read_events(["data: 1\n\n"])))
    for size in range(1, len(STREAM) + 1):
        given = list(read_events(cut(STREAM, size)))
        assert given == EXPECTED, f"In pieces of {size}: {EXPECTED}, not {given}."
    given = list(read_events(['data: 1\n\ndata: {"tex']))
    assert given == ["1"], f"A stream that is cut off: ['1'], not {given}."
    endless = read_events(piece for _ in iter(int, 1) for piece in ("data: 1\n\n",))
    assert next(endless) == "1", "The first event comes before the stream has ended."
