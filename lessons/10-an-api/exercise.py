"""Exercise 10: a client for Server-Sent Events."""

from collections.abc import Iterable, Iterator


def read_events(pieces: Iterable[str]) -> Iterator[str]:
    """Yields the data of each event, up to `[DONE]`.

    An event is a line `data: ` with its data, and an empty line after it. A line that begins with
    a colon is a comment, which servers send to keep a connection open. Lines end with a line feed.
    An event without its empty line is incomplete and is not yielded.

    Args:
        pieces: the stream's text as the network delivers it: a piece may hold several events, or
            end in the middle of a line.
    """
    raise NotImplementedError
