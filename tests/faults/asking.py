"""Requests of the fault tests: whole ones, and bytes that no client would send."""

import json
import re
import socket
from collections.abc import Iterable

import httpx2

from tests.support.servers import Asked, LocalServer

DEADLINE = 20
"""Seconds within which any request must be answered, also on a busy machine."""

CLIENT = httpx2.Client(
    timeout=DEADLINE, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
)
"""Makes a connection for each request; a client for each would read all certificates each time."""

TEXTS, CHATS = "/v1/completions", "/v1/chat/completions"
USUAL = {
    TEXTS: {"prompt": "the", "max_tokens": 1},
    CHATS: {"messages": [{"role": "user", "content": "the"}], "max_tokens": 1},
    "/v1/embeddings": {"input": "the"},
}
TEMPLATE = "{% for message in messages %}<|user|>{{ message.content }}{% endfor %}"
MOST_MESSAGE = 120
STAMPS = {r"in \d+ s": "in N s", r"model is `[^`]*`": "model is `MODEL`"}
"""Replacements of text that differs from run to run."""

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def post(server: Asked, path: str = TEXTS, **fields: object) -> httpx2.Response:
    """Sends the smallest valid request, changed by `fields`."""
    name = fields.get("model") or name_of(server)
    return send(server, json.dumps({"model": name} | USUAL.get(path, {}) | fields), path)


def name_of(server: Asked) -> str:
    """The served model's name."""
    if isinstance(server, LocalServer):
        return server.engine.model_name
    return CLIENT.get(server.url + "/v1/models").json()["data"][0]["id"]


def said(content: object, role: str = "user") -> dict[str, object]:
    return {"role": role, "content": content}


def send(server: Asked, content: object, path: str = TEXTS, **headers: str) -> httpx2.Response:
    """Sends a body as it is."""
    given = {"content-type": "application/json"} | dict(server.headers)
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return CLIENT.post(server.url + path, content=content, headers=given)


def connect(server: Asked) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE)


def talk(server: Asked, pieces: Iterable[str | bytes]) -> httpx2.Response | None:
    """Sends pieces while they are taken, and reads until the server closes: its one answer."""
    with connect(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece.encode() if isinstance(piece, str) else piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has closed, and its answer is there
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass  # of what it did not read
    return parse(received) if received else None


def parse(received: bytes) -> httpx2.Response:
    """The one answer that was received."""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx2.Response(int(status.split()[1]), headers=headers, content=body)


def told(response: httpx2.Response) -> str:
    """Summarises an answer in a line; an error must have the whole shape of OpenAI's API."""
    if response.status_code < 400:
        return str(response.status_code)
    assert response.headers["x-request-id"]
    body = response.json()
    assert body.keys() == {"error"}, body
    return told_error(response.status_code, body["error"])


def told_error(status_code: int, error: dict[str, str]) -> str:
    assert error.keys() == {"message", "type", "param", "code"}
    usual = "server_error" if status_code >= 500 else "invalid_request_error"
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert error["type"] == kinds.get(status_code, usual)
    code = f" `{error['code']}`" if error["code"] else ""
    param = error["param"]
    message = error["message"]
    for changes, stays in STAMPS.items():
        message = re.sub(changes, stays, message)
    short = message if len(message) <= MOST_MESSAGE else message[:MOST_MESSAGE] + " …"
    place = f"{param}: " if param and not message.startswith(param) else ""
    return f"{status_code}{code}: {place}{short}"
