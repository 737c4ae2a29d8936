"""uvicorn's HTTP connection, which an application can break off.

uvicorn closes a connection once all is sent. To a client that has stopped reading that never
happens, and so it would stay, and hold up the server's end.
"""

from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "connection"
"""Our entry among the extensions of an ASGI scope."""


class Connection(HttpToolsProtocol):
    """The class that uvicorn is told to use."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}


def abort_connection(scope: MutableMapping[str, Any]) -> None:
    """Breaks a request's connection off; what was not sent yet is lost.

    Under another server than `python -m src.main` starts, it stays until the client leaves.
    """
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    if extension is not None:
        extension["abort"]()
