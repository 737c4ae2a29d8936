"""Limits of a connection spare clients that keep on sending or reading."""

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
LARGE_ANSWER = {"prompt": "the", "num_return_sequences": 4, "max_length": 120, "logprobs": 10}


@pytest.fixture
def impatient(start_server) -> LocalServer:
    """A server with short timeouts and a small send buffer."""
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


def test_a_request_in_many_pieces_is_answered(impatient):
    with connect(impatient) as connection:
        whole = request()
        for begin in range(0, len(whole), 40):
            connection.sendall(whole[begin : begin + 40])
            time.sleep(SECONDS / 20)
        assert b" 200 OK" in read_until(connection, b"}")


def test_each_request_of_a_connection_has_its_own_deadline(impatient):
    with connect(impatient) as connection:
        for _ in range(3):
            connection.sendall(request())
            assert b" 200 OK" in read_until(connection, b"}")
            time.sleep(SECONDS / 2)


@pytest.mark.parametrize("rest", [b"", b"POST /gen"])
def test_an_answer_may_outlast_the_receive_timeout(impatient, rest):
    impatient.slow_down(0.05)
    with connect(impatient) as connection:
        connection.sendall(request(stream=True, max_length=50) + rest)
        received = read_until(connection, b"0\r\n\r\n")
        assert b"[DONE]" in received
        if rest:  # the next request has begun, and stays incomplete
            assert b" 408 " in connection.recv(65536)


def test_malformed_input_during_an_answer_adds_nothing_to_it(impatient):
    impatient.slow_down(0.02)
    with connect(impatient) as connection:
        connection.sendall(request(stream=True, max_length=100))
        received = connection.recv(65536)
        assert b" 200 OK" in received
        connection.sendall(b"\0\0\0\r\n\r\n")
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1") == 1
    assert b"400" not in received.partition(b"\r\n")[0]
    wait_until(lambda: impatient.engine.num_live == 0)


def request_http_1_0(server: LocalServer, head: str, body: str = "") -> tuple[bytes, bytes]:
    """Returns the head, in lower case, and the body of an answer that ends with the connection."""
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
def test_http_1_0_gets_no_chunks_and_a_closed_connection(shared_server, stream):
    fields = {"prompt": "the", "max_length": 20, "temperature": 0}
    body = json.dumps(fields | {"stream": stream})
    head, content = request_http_1_0(shared_server, "POST /generate", body)
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
def test_http_1_0_gets_whole_answers_of_every_kind(shared_server, path):
    _, content = request_http_1_0(shared_server, f"GET {path}")
    assert len(content) == len(shared_server.get(path).content) or path == "/metrics"
    head, content = request_http_1_0(shared_server, f"HEAD {path}")
    assert (content, b"transfer-encoding" in head) == (b"", False)


def read_slowly(connection) -> Iterator[bytes]:
    """Yields pieces of an answer slowly: all take several times the send timeout."""
    while piece := connection.recv(16_384):
        yield piece
        time.sleep(SECONDS / 80)


def test_a_slow_reader_gets_the_whole_answer(impatient):
    whole = impatient.post(LARGE_ANSWER | {"seed": 1})
    num_bytes = len(whole.content)
    assert num_bytes > 200_000
    with connect(impatient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request(**LARGE_ANSWER, seed=1))
        started = time.monotonic()
        received = b""
        for piece in read_slowly(connection):
            received += piece
            if len(received.partition(b"\r\n\r\n")[2]) == num_bytes:
                break
        assert time.monotonic() - started > 2 * SECONDS
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["generated"]) == 4


OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def request_with_offer(rest: bytes = b"", framing: str = "Content-Length: {}") -> list[bytes]:
    """Returns a request that offers HTTP/2: its head, and its body followed by `rest`."""
    body = json.dumps({"prompt": "the", "max_length": 1}).encode()
    if framing.startswith("Transfer"):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return [f"{HEAD}{OFFER}{framing.format(len(body))}\r\n\r\n".encode(), body + rest]


@pytest.mark.parametrize("framing", ["Content-Length: {}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_an_offer_of_http_2_is_answered_in_http_1_1(impatient, framing, is_whole):
    head, rest = request_with_offer(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", framing)
    with connect(impatient) as connection:
        for piece in [head + rest] if is_whole else [head, rest[:7], rest[7:]]:
            connection.sendall(piece)
            time.sleep(0.05)
        received = read_until(connection, b'"version":"0.1.0"}')
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert b'"generated"' in received


def test_a_body_after_an_offer_is_no_second_request(impatient):
    hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"{HEAD}{OFFER}Content-Length: {len(hidden)}\r\n\r\n".encode()
    with connect(impatient) as connection:
        for piece in (head, hidden):
            connection.sendall(piece)
            time.sleep(0.05)
        received = read_until(connection, b"}")
        connection.settimeout(SECONDS / 2)
        with pytest.raises(TimeoutError):
            connection.recv(65536)
    assert received.count(b"HTTP/1.1") == 1
    assert b" 422 " in received.partition(b"\r\n")[0]


def test_the_bound_on_a_head_counts_every_byte_of_its_headers(impatient):
    few, many = ["X: " + "y" * 20_000], ["X:"] * 20_000
    statuses = []
    for headers in (few, many):
        with connect(impatient) as connection:
            connection.sendall("\r\n".join(["GET /health HTTP/1.1", *headers, "", ""]).encode())
            statuses.append(connection.recv(65536).split()[1])
    assert statuses == [b"200", b"431"]
