"""Reads the messages of a process that is not trusted, without waiting for any part of one."""

import os
from collections.abc import Iterator

MAX_MESSAGE_BYTES = 2**22
"""A process that sends more at a time is ended."""

PIECE_BYTES = 2**18
"""Read at a time; more than a socket holds."""

HEADER_BYTES = 4
"""Before each message `Connection.send_bytes` sends its length."""


class MessageReader:
    """Puts messages together from the pieces in which they come.

    Args:
        descriptor: of a socket, which does not block.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()

    def read(self) -> Iterator[bytes]:
        """Yields the messages that are complete now, of one piece at most.

        Raises:
            EOFError: the process has closed its end.
            ValueError: a message is too long.
        """
        try:
            piece = os.read(self._descriptor, PIECE_BYTES)
        except BlockingIOError:
            return
        if not piece:
            raise EOFError
        self._pending += piece
        while (end := self._end()) <= len(self._pending):
            yield bytes(self._pending[HEADER_BYTES:end])
            del self._pending[:end]

    def _end(self) -> int:
        """Returns where the first message ends."""
        if len(self._pending) < HEADER_BYTES:
            return HEADER_BYTES
        end = HEADER_BYTES + int.from_bytes(self._pending[:HEADER_BYTES], "big")
        if end > HEADER_BYTES + MAX_MESSAGE_BYTES:
            raise ValueError(end)
        return end
