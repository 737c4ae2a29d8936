"""HTTP that no client of good faith speaks: refused before the app sees it, and in time."""

import time
from collections.abc import Iterator

from tests.faults.asking import CHATS, CLIENT, DEADLINE, HEAD, TEXTS, connect, talk, told
from tests.faults.conftest import assert_serves
from tests.faults.table import measured

NUM_PATHS = 20_000
AT_ONCE = 50


def test_unknown_paths_and_methods(server):
    nothing = CLIENT.get(server.url + "/v1/nothing")
    wrong = [CLIENT.request(one, server.url + TEXTS) for one in ("GET", "PUT", "DELETE")]
    assert {answer.headers["allow"] for answer in wrong} == {"POST"}
    (answer,) = {told(answer) for answer in wrong}
    measured(12, {"path": told(nothing), "method": f"{answer}; `Allow: POST`"})


def test_random_paths(server):
    CLIENT.get(server.url + "/random")
    before = server.samples().keys()
    with connect(server) as connection:
        for begin in range(0, NUM_PATHS, AT_ONCE):
            numbers = range(begin, begin + AT_ONCE)
            lines = [f"GET /{n:x}/{n} HTTP/1.1\r\nHost: localhost\r\n\r\n" for n in numbers]
            connection.sendall("".join(lines).encode())
            received = b""
            while received.count(b"404 Not Found") < AT_ONCE:
                received += connection.recv(65536)
    samples = server.samples()
    assert samples.keys() == before
    assert samples["inference_requests_total", "__unmatched__", "client_error"] > NUM_PATHS
    measured(13, {"each": "404; no new time series in `/metrics`"})


def test_request_smuggling(server):
    chunked = "Transfer-Encoding: chunked\r\n"
    cases = {
        "Content-Length and Transfer-Encoding": f"Content-Length: 5\r\n{chunked}\r\n0\r\n\r\n",
        "two Content-Lengths": "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
        "a chunk longer than it says": f"{chunked}\r\n5\r\nhello, world\r\n0\r\n\r\n",
        "a chunk's size that is no number": f"{chunked}\r\nx\r\nhello\r\n0\r\n\r\n",
    }
    answers = {case: talk(server, [HEAD, rest]) for case, rest in cases.items()}
    assert {answer.headers["connection"] for answer in answers.values()} == {"close"}
    measured(15, {case: told(answer) for case, answer in answers.items()})


def slowly(begin: str, piece: str) -> Iterator[str]:
    yield begin
    for _ in range(10 * DEADLINE):
        time.sleep(0.1)
        yield piece


def test_clients_that_are_slow(start):
    with start(receive_timeout_seconds=1) as server:
        cases = {
            "in the headers": (HEAD, "x"),
            "in the body": (f"{HEAD}Content-Length: 1000\r\n\r\n", " "),
        }
        found = {case: told(talk(server, slowly(*one))) for case, one in cases.items()}
        silent, line_ends = talk(server, []), talk(server, slowly("", "\r\n"))
        assert silent is line_ends is None
        found |= dict.fromkeys(("nothing at all", "line ends alone"), "closed")
        refused = "GET /v1/nothing HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
        answer = talk(server, slowly(refused, " "))
        found["in a body nobody wants"] = f"{told(answer)}; then closed"
        assert_serves(server)
    measured(16, found)


def test_headers_that_are_too_large(server):
    lines = "\r\n".join(f"x-{number}: {'a' * 90}" for number in range(1000))
    cases = {
        "one": f"{HEAD}x-a: {'a' * 100_000}\r\n\r\n",
        "one without end": f"{HEAD}x-a: {'a' * 100_000}",
        "many": f"{HEAD}{lines}\r\n\r\n",
        "a long path": f"POST {CHATS}?{'a' * 100_000} HTTP/1.1\r\n\r\n",
    }
    answers = {case: talk(server, [text]) for case, text in cases.items()}
    assert {answer.headers["connection"] for answer in answers.values()} == {"close"}
    measured(17, {case: told(answer) for case, answer in answers.items()})
