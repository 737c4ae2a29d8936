"""An answer to exercise 10."""

from collections.abc import Iterable, Iterator


def read_events(pieces: Iterable[str]) -> Iterator[str]:
    """Yields the data of each event, up to `[DONE]`."""
    rest = ""
    for piece in pieces:
        *events, rest = (rest + piece).split("\n\n")
        for event in events:
            for line in event.split("\n"):
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    return
                if data != line:
                    yield data
