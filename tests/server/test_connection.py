"""Deadlines of a connection harm nobody who keeps on sending or reading."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.faults.asking import connect
from tests.support.servers import LocalServer, Streamed

SECONDS = 1
HEAD = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MUCH = {"prompt": "the", "num_return_sequences": 4, "max_length": 120, "logprobs": 10}


@pytest.fixture
def hasty(start_server) -> LocalServer:
    """A server that waits for nobody."""
    return start_server(
        send_buffer=4096, receive_timeout_seconds=SECONDS, send_timeout_seconds=SECONDS
    )


def request(**fields: object) -> bytes:
    body = json.dumps({"prompt": "the", "max_length": 1} | fields)
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def read_until(connection, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_a_request_that_comes_in_pieces_in_time_is_answered(hasty):
    with connect(hasty) as connection:
        whole = request()
        for begin in range(0, len(whole), 40):
            connection.sendall(whole[begin : begin + 40])
            time.sleep(SECONDS / 20)
        assert b" 200 OK" in read_until(connection, b"}")


def test_each_request_of_a_connection_has_a_time_of_its_own(hasty):
    with connect(hasty) as connection:
        for _ in range(3):
            connection.sendall(request())
            assert b" 200 OK" in read_until(connection, b"}")
            time.sleep(SECONDS / 2)


@pytest.mark.parametrize("rest", [b"", b"POST /gen"])
def test_an_answer_may_take_longer_than_a_request_may(hasty, rest):
    hasty.slow_down(0.05)
    with connect(hasty) as connection:
        connection.sendall(request(stream=True, max_length=50) + rest)
        received = read_until(connection, b"0\r\n\r\n")
        assert b"[DONE]" in received
        if rest:  # the next request has begun, and does not come
            assert b" 408 " in connection.recv(65536)


def test_what_is_no_http_does_not_get_into_an_answer(hasty):
    hasty.slow_down(0.02)
    with connect(hasty) as connection:
        connection.sendall(request(stream=True, max_length=100))
        received = connection.recv(65536)
        assert b" 200 OK" in received
        connection.sendall(b"\0\0\0\r\n\r\n")
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1") == 1
    assert b"400" not in received.partition(b"\r\n")[0]
    wait_until(lambda: hasty.engine.num_live == 0)


def ask_in_http_1_0(server: LocalServer, head: str, body: str = "") -> tuple[bytes, bytes]:
    """The head in lower case and the body of all that comes before the server closes."""
    with connect(server) as connection:
        connection.sendall(f"{head} HTTP/1.0\r\n".encode())
        connection.sendall(b"Content-Type: application/json\r\nConnection: keep-alive\r\n")
        connection.sendall(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head_bytes, _, content = received.partition(b"\r\n\r\n")
    return head_bytes.lower(), content


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection(shared_server, stream):
    fields = {"prompt": "the", "max_length": 20, "temperature": 0}
    body = json.dumps(fields | {"stream": stream})
    head, content = ask_in_http_1_0(shared_server, "POST /generate", body)
    assert b" 200 ok" in head
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    whole = shared_server.post(fields).json()["generated"]
    if stream:
        assert Streamed.read(content.decode()).generated() == whole
    else:
        assert b"content-length" in head
        assert json.loads(content)["generated"] == whole


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json", "/no/such/path"])
def test_http_1_0_reads_every_kind_of_answer(shared_server, path):
    _, content = ask_in_http_1_0(shared_server, f"GET {path}")
    assert len(content) == len(shared_server.get(path).content) or path == "/metrics"
    head, content = ask_in_http_1_0(shared_server, f"HEAD {path}")
    assert (content, b"transfer-encoding" in head) == (b"", False)


def slowly(connection) -> Iterator[bytes]:
    """What comes, so that it takes some times as long as may pass without any reading."""
    while piece := connection.recv(16_384):
        yield piece
        time.sleep(SECONDS / 80)


def test_who_reads_slowly_gets_it_all(hasty):
    whole = hasty.post(MUCH | {"seed": 1})
    num_bytes = len(whole.content)
    assert num_bytes > 200_000
    with connect(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request(**MUCH, seed=1))
        started = time.monotonic()
        received = b""
        for piece in slowly(connection):
            received += piece
            if len(received.partition(b"\r\n\r\n")[2]) == num_bytes:
                break
        assert time.monotonic() - started > 2 * SECONDS
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["generated"]) == 4


OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def offering(rest: bytes = b"", framing: str = "Content-Length: {}") -> list[bytes]:
    """A request beside which HTTP/2 is offered: its head, and its body with what follows."""
    body = json.dumps({"prompt": "the", "max_length": 1}).encode()
    if framing.startswith("Transfer"):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return [f"{HEAD}{OFFER}{framing.format(len(body))}\r\n\r\n".encode(), body + rest]


@pytest.mark.parametrize("framing", ["Content-Length: {}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_who_offers_another_protocol_is_answered_in_this_one(hasty, framing, is_whole):
    head, rest = offering(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", framing)
    with connect(hasty) as connection:
        for piece in [head + rest] if is_whole else [head, rest[:7], rest[7:]]:
            connection.sendall(piece)
            time.sleep(0.05)
        received = read_until(connection, b'"version":"0.1.0"}')
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert b'"generated"' in received


def test_a_body_beside_an_offer_is_no_second_request(hasty):
    hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"{HEAD}{OFFER}Content-Length: {len(hidden)}\r\n\r\n".encode()
    with connect(hasty) as connection:
        for piece in (head, hidden):
            connection.sendall(piece)
            time.sleep(0.05)
        received = read_until(connection, b"}")
        connection.settimeout(SECONDS / 2)
        with pytest.raises(TimeoutError):
            connection.recv(65536)
    assert received.count(b"HTTP/1.1") == 1
    assert b" 422 " in received.partition(b"\r\n")[0]


def test_a_head_is_as_large_as_its_bytes_however_many_headers_they_are(hasty):
    few, many = ["X: " + "y" * 20_000], ["X:"] * 20_000
    statuses = []
    for headers in (few, many):
        with connect(hasty) as connection:
            connection.sendall("\r\n".join(["GET /health HTTP/1.1", *headers, "", ""]).encode())
            statuses.append(connection.recv(65536).split()[1])
    assert statuses == [b"200", b"431"]
