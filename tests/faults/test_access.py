"""Clients without access or over their limits: refused, and no other client waits for it."""

import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx2
import pytest

from src.auth.api_keys import APIKey, APIKeys, KeyLimits, Scope, create_secret, sha256_of
from tests.auth.test_jwt import (  # noqa: F401 - fixtures
    AUDIENCE,
    ISSUER,
    claims,
    encoded,
    hs256,
    jwt,
    other_key,
    pem,
    private_key,
    sign,
)
from tests.conftest import wait_until
from tests.faults.asking import CLIENT, TEXTS, post, send, talk, told
from tests.faults.conftest import assert_serves
from tests.faults.table import measured
from tests.limits.test_storage import UP
from tests.support.keys import bearer
from tests.support.servers import LocalServer

POLICY_SECONDS = 0.25
TRIES = 5
"""One of them must be as fast as is promised: a machine can be busy, a wait would be in each."""


def create(name: str, *scopes: Scope, **limits: int) -> tuple[str, APIKey]:
    """A key, and what the service knows of it."""
    key_id, key = create_secret()
    now = datetime.now(UTC)
    known = APIKey(
        id=key_id,
        name=name,
        sha256=sha256_of(key),
        scopes=frozenset(scopes),
        created_at=now,
        limits=KeyLimits(**limits),
    )
    return key, known


KEYS = {
    "admin": create("admin", Scope.ADMIN),
    "metrics": create("metrics", Scope.METRICS),
    "few": create("few", Scope.GENERATE, requests=2),
}
KEY = {name: key for name, (key, _) in KEYS.items()}
API_KEYS = APIKeys(keys=[known for _, known in KEYS.values()]).dump()


@pytest.fixture
def locked(start) -> Iterator[LocalServer]:
    """A server that wants keys."""
    with start(auth="api_key", api_keys=API_KEYS) as server:
        server.headers = bearer(KEY["admin"])
        yield server


def ask(server: LocalServer, *headers: tuple[str, str | bytes], path: str = TEXTS):
    """A request with these headers and none of an admin's."""
    body = {"model": server.engine.model_name, "prompt": "the", "max_tokens": 1}
    given = [
        (name.encode(), one if isinstance(one, bytes) else one.encode()) for name, one in headers
    ]
    return CLIENT.post(server.url + path, json=body, headers=given)


def refusal(response: httpx2.Response) -> str:
    """A 401 or 403 with its challenge."""
    assert response.headers["www-authenticate"].startswith('Bearer realm="llm-inference"')
    return told(response)


def test_forged_hosts_and_targets(locked):
    body = "\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    cases = {
        "Host: x/health?": f"POST {TEXTS} HTTP/1.1\r\nHost: x/health?{body}",
        "Host: x/docs#": f"POST {TEXTS} HTTP/1.1\r\nHost: x/docs#{body}",
        "@evil": f"POST @evil{TEXTS} HTTP/1.1\r\nHost: localhost{body}",
        "http://evil": f"POST http://evil{TEXTS}?/health HTTP/1.1\r\nHost: localhost{body}",
        "/health/..": f"POST /health/..{TEXTS} HTTP/1.1\r\nHost: localhost{body}",
        "/static-offline-docs/..": f"POST /static-offline-docs/..{TEXTS} HTTP/1.1\r\nHost: x{body}",
        "X-Original-URL": f"POST {TEXTS} HTTP/1.1\r\nX-Original-URL: /health{body}",
    }
    answers = {case: talk(locked, [text]) for case, text in cases.items()}
    measured(14, {case: status_and_message(answer) for case, answer in answers.items()})


def status_and_message(response: httpx2.Response) -> str:
    """Summarises an answer, also in the native shape, which unknown paths have."""
    body = response.json()
    return told(response) if "error" in body else f"{response.status_code}: {body['detail']}"


def test_no_key_and_a_wrong_one(locked):
    wrong = bearer("llmk_000000000000_x")["Authorization"]
    cases = {"no key": [], "a wrong one": [("authorization", wrong)]}
    measured(18, {case: refusal(ask(locked, *headers)) for case, headers in cases.items()})


def test_odd_keys(locked):
    key = KEY["admin"]
    cases = {
        "a quote": "'\" OR 1=1; --",
        "10 KB": "x" * 10_000,
        "no ASCII": "ключ".encode(),
        "no text": key.encode() + b"\xff",
        "one character less": key[:-1],
        "the same twice": f"{key}, {key}",
    }
    answers = {
        case: ask(
            locked,
            ("authorization", b"Bearer " + (one if isinstance(one, bytes) else one.encode())),
        )
        for case, one in cases.items()
    }
    measured(19, {case: refusal(answer) for case, answer in answers.items()})


def test_forged_tokens(start, tmp_path, private_key, other_key):  # noqa: F811
    file = tmp_path / "public"
    file.write_text(pem(private_key))
    now = int(time.time())
    cases = {
        "alg none": jwt.encode(claims(), None, "none"),
        "HS256 with the public key": hs256(pem(private_key)),
        "another's key": sign(other_key),
        "an unknown crit": sign(private_key, {"crit": ["x"], "x": 1}),
        "expired": sign(private_key, exp=now - 60),
        "another audience": sign(private_key, aud="other"),
        "another issuer": sign(private_key, iss="https://evil.example"),
        "a deep header": f"{encoded({'a': [1]})}.{'[' * 5000}.x",
    }
    settings = {"jwt_key_file": file, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    with start(auth="jwt", **settings) as server:
        server.headers = bearer(sign(private_key, scope="admin"))
        answers = {case: ask(server, *bearer(one).items()) for case, one in cases.items()}
        assert_serves(server)
    measured(20, {case: refusal(answer) for case, answer in answers.items()})


def test_a_key_without_the_scope(locked):
    answer = ask(locked, *bearer(KEY["metrics"]).items())
    assert 'error="insufficient_scope", scope="generate"' in answer.headers["www-authenticate"]
    measured(21, {"a scope": refusal(answer)})


def limited(response: httpx2.Response) -> str:
    assert int(response.headers["retry-after"]) >= 1
    return f"{told(response)}; `Retry-After`"


def test_more_requests_than_allowed(locked):
    *allowed, refused = [ask(locked, *bearer(KEY["few"]).items()) for _ in range(3)]
    assert [answer.status_code for answer in allowed] == [200, 200]
    measured(22, {"the third": limited(refused)})


def test_forged_addresses(start):
    with start(rate_limit_requests=2) as server:
        answers = [
            send(
                server, "{}", x_forwarded_for=f"10.0.0.{number}", X_FORWARDED_FOR=f"10.1.0.{number}"
            )
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers[:2]] == [400, 400]
        server.service.rate_limit._requests.limiter.reset()
    measured(23, {"the third": limited(answers[2])})


def test_a_flood_of_wrong_keys(start):
    settings = {"auth": "api_key", "api_keys": API_KEYS, "rate_limit_address_requests": 20}
    with start(**settings) as server:
        server.headers = bearer(KEY["admin"])
        wrong = bearer("llmk_000000000000_x").items()
        *unknown, refused = [ask(server, *wrong) for _ in range(21)]
        assert {answer.status_code for answer in unknown} == {401}
        assert CLIENT.get(server.url + "/health/live").status_code == 200
        server.service.rate_limit._requests.limiter.reset()
    measured(24, {"the 21st of 20": limited(refused)})


def test_redis_gone_or_silent(start, storage):
    found: dict[str, str] = {}
    for policy in ("open", "closed"):
        settings = {"rate_limit_storage": storage.url, "rate_limit_storage_failure": policy}
        with start(**settings) as server:
            for case, begin, end in (
                (
                    "silent",
                    lambda: storage.signal(signal.SIGSTOP),
                    lambda: storage.signal(signal.SIGCONT),
                ),
                ("gone", storage.stop, storage.start),
            ):
                answer = answered_in_time(server, begin, end)
                found[f"{case} ({policy})"] = told(answer)
    measured(25, found)


def answered_in_time(server: LocalServer, begin, end) -> httpx2.Response:
    """The first answer after a fault begins, which one of some tries gives as fast as promised."""
    seconds = []
    while not seconds or (min(seconds) > POLICY_SECONDS and len(seconds) < TRIES):
        wait_until(lambda: server.sample(UP) == 1)
        name = server.engine.model_name
        body = json.dumps({"model": name, "prompt": "the", "max_tokens": 1})
        begin()
        started = time.perf_counter()
        answer = send(server, body)
        seconds.append(time.perf_counter() - started)
        assert send(server, body).status_code == answer.status_code
        for probe in ("live", "ready"):
            assert CLIENT.get(f"{server.url}/health/{probe}").status_code == 200
        end()
    assert min(seconds) <= POLICY_SECONDS, seconds
    wait_until(lambda: post(server).status_code == 200)
    return answer
