"""httptools' parser of requests, for a server that speaks HTTP/1.1 and nothing else.

A client may offer another protocol beside its request (`Upgrade: h2c`, as Java's and curl's do),
and who does not speak that answers as if nothing had been offered (RFC 9110, 7.8). httptools takes
the offer for the end of the request: its body would be lost, or be read as the next request.
"""

from array import array
from typing import Protocol

from httptools import HttpParserUpgrade, HttpRequestParser

TUNNEL = b"CONNECT"


class RequestTarget(Protocol):
    """Whom the parser tells, which has the URL and the headers that it was told of."""

    url: bytes
    headers: list[tuple[bytes, bytes]]


class RequestParser(HttpRequestParser):
    """Reads the head of a request that offers another protocol again, without the offer.

    Args:
        target: is told twice of such a head; the first time `is_offer` is true when it is whole.
    """

    def __init__(self, target: RequestTarget) -> None:
        super().__init__(target)
        self._target = target

    @property
    def is_offer(self) -> bool:
        """Whether the head that is whole now will be read again."""
        return self.should_upgrade() and self.get_method() != TUNNEL

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        """Reads what has come.

        Raises:
            HttpParserError: it is no HTTP.
        """
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
            except HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
                if self.is_offer:
                    super().feed_data(self._head_without_offer())
            else:
                return

    def _head_without_offer(self) -> bytes:
        method, version = self.get_method(), self.get_http_version().encode()
        kept = [b"%s: %s" % pair for pair in self._target.headers if pair[0] != b"upgrade"]
        line = b"%s %s HTTP/%s" % (method, self._target.url, version)
        return b"\r\n".join([line, *kept, b"", b""])
