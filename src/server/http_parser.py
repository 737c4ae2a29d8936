"""httptools' request parser, for a server that speaks HTTP/1.1 only.

A client may offer another protocol with its request, as Java's and curl's do (`Upgrade: h2c`). A
server without that protocol ignores the offer (RFC 9110, 7.8). httptools ends the request at the
offer: its body would be lost, or be read as the next request.
"""

from array import array
from typing import Protocol

from httptools import HttpParserUpgrade, HttpRequestParser

TUNNEL = b"CONNECT"


class RequestTarget(Protocol):
    """Receiver of the parser's callbacks, which keeps the URL and the headers."""

    url: bytes
    headers: list[tuple[bytes, bytes]]


class RequestParser(HttpRequestParser):
    """Parses a head that offers another protocol a second time, without the offer.

    Args:
        target: receives such a head twice; `is_offer` is true at the end of the first.
    """

    def __init__(self, target: RequestTarget) -> None:
        super().__init__(target)
        self._target = target

    @property
    def is_offer(self) -> bool:
        """The head that is complete now will be parsed again."""
        return self.should_upgrade() and self.get_method() != TUNNEL

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        """Parses received bytes.

        Raises:
            HttpParserError: the bytes are not valid HTTP.
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
