"""Non-blocking reader of length-prefixed messages from an untrusted process."""

import os
from collections.abc import Iterator

MAX_MESSAGE_BYTES = 2**22
"""Limit on the length of a message; a process that exceeds it is ended."""

CHUNK_BYTES = 2**18
"""Size of one read; more than a socket's buffer."""

HEADER_BYTES = 4
"""Length prefix of `Connection.send_bytes`: a big-endian integer."""


class MessageReader:
    """Assembles messages from chunks.

    Args:
        descriptor: descriptor of a non-blocking socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()

    def read(self) -> Iterator[bytes]:
        """Reads one chunk and yields the messages that it completes.

        Raises:
            EOFError: the process has closed its end.
            ValueError: a message is too long.
        """
        try:
            chunk = os.read(self._descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            raise EOFError
        self._pending += chunk
        while (end := self._end()) <= len(self._pending):
            yield bytes(self._pending[HEADER_BYTES:end])
            del self._pending[:end]

    def _end(self) -> int:
        """Returns the end of the first message."""
        if len(self._pending) < HEADER_BYTES:
            return HEADER_BYTES
        end = HEADER_BYTES + int.from_bytes(self._pending[:HEADER_BYTES], "big")
        if end > HEADER_BYTES + MAX_MESSAGE_BYTES:
            raise ValueError(end)
        return end
