"""Invalid bodies: refused whatever they contain, without effect on other requests."""

import gzip
import json
from collections.abc import Iterator

from tests.faults.asking import HEAD, name_of, post, send, talk, told
from tests.faults.table import measured
from tests.support.servers import LocalServer


def raw(server: LocalServer, fields: str) -> str:
    """A body in which `fields`, a piece of JSON, stand beside what is needed."""
    return f'{{"model": {json.dumps(name_of(server))}, "prompt": "the", {fields}}}'


def test_a_body_that_is_not_an_object(server):
    bodies = {"malformed": "{", "empty": "", "an array": "[]", "`null`": "null", "a text": '"a"'}
    measured(1, {case: told(send(server, body)) for case, body in bodies.items()})


def test_a_body_that_is_not_json(server):
    body = raw(server, '"max_tokens": 1')
    cases = {
        "a form": ("prompt=the", {"content_type": "application/x-www-form-urlencoded"}),
        "multipart": (body, {"content_type": "multipart/form-data; boundary=x"}),
        "gzip": (gzip.compress(body.encode()), {"content_encoding": "gzip"}),
    }
    answers = {case: send(server, content, **head) for case, (content, head) in cases.items()}
    measured(2, {case: told(answer) for case, answer in answers.items()})


def test_a_length_that_is_too_large(server):
    answer = talk(server, [HEAD, f"Content-Length: {10**10}\r\n\r\n"])  # and nothing of it
    assert answer.headers["connection"] == "close"
    measured(3, {"announced": told(answer)})


def test_chunks_without_end(server):
    num_sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal num_sent
        yield HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + b" " * 2**16 + b"\r\n"
            num_sent += 2**16

    answer = talk(server, pieces())
    assert num_sent < 4 * server.service.settings.max_body_bytes + 2**23  # buffers of the system
    assert answer.headers["connection"] == "close"
    measured(4, {"sent": told(answer)})


def test_thousands_of_json_levels(server):
    cases = {"arrays": "[" * 20_000, "objects": '{"a":' * 20_000}
    cases["in a field"] = raw(server, '"x": ' + "[" * 20_000 + "]" * 20_000)
    measured(5, {case: told(send(server, body)) for case, body in cases.items()})


def test_thousands_of_digits(server):
    body = raw(server, '"max_tokens": ' + "9" * 5000)
    measured(6, {"max_tokens": told(send(server, body))})


def test_invalid_numbers(server):
    numbers = ("NaN", "Infinity", "-Infinity", "1e999")
    answers = {one: told(send(server, raw(server, f'"temperature": {one}'))) for one in numbers}
    answers["in logit_bias"] = told(send(server, raw(server, '"logit_bias": {"5": NaN}')))
    measured(7, answers)


def test_half_a_surrogate_pair(server):
    cases = {"a text": '"stop": "\\ud800"', "a name": '"\\ud800": 1'}
    measured(8, {case: told(send(server, raw(server, one))) for case, one in cases.items()})


def test_invalid_utf8(server):
    body = raw(server, '"stop": "ÿ"').encode("latin-1")
    measured(9, {"0xff": told(send(server, body))})


def test_a_nul(server):
    cases = {"prompt": {"prompt": "a\0b"}, "model": {"model": name_of(server) + "\0"}}
    answers = {case: post(server, **fields) for case, fields in cases.items()}
    measured(10, {case: told(answer) for case, answer in answers.items()})


def test_unknown_fields_and_repeated_fields(server):
    unknown = post(server, temprature=1)
    twice = send(server, raw(server, '"max_tokens": 7, "max_tokens": 2'))
    assert twice.json()["usage"]["completion_tokens"] == 2
    measured(11, {"unknown": told(unknown), "twice": f"{told(twice)}: the last one counts"})
