"""Bodies as they come: whatever the bytes, a request is understood or refused, and never breaks."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.middleware.request_body import LARGE_BODY, JSONLimits, parse_json

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
BODIES = {
    "/tokenize": {"prompt": "the cat"},
    "/generate": {"prompt": "the", "max_length": 1, "stop": ["x"], "temperature": 0.5},
    "/v1/chat/completions": {
        "model": "storyteller",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "hi"}],
        "logit_bias": {"5": -1.5},
    },
}

JSON = {"Content-Type": "application/json"}


def read(body: bytes) -> Any:
    return parse_json(body, JSONLimits(max_depth=500, max_containers=1000))


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [one for inner in value.values() for one in numbers_in(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in numbers_in(inner)]
    return [value] if isinstance(value, float) else []


@settings(deadline=None)
@given(value=VALUES)
def test_values_arrive_as_they_were_sent_and_whole_numbers_whole(value):
    found = read(json.dumps(value).encode())
    assert found == value
    assert not [one for one in numbers_in(found) if one.is_integer()]


def mutated(body: bytes) -> st.SearchStrategy[bytes]:
    """The body with some bytes in the place of others."""

    def splice(at: int, length: int, new: bytes) -> bytes:
        return body[:at] + new + body[at + length :]

    news = st.binary(max_size=6) | VALUES.map(lambda value: json.dumps(value).encode())
    news |= st.sampled_from([b"NaN", b"1e999", b"-", b"\\ud800", b"\xff", b"[" * 2000, b"9" * 5000])
    return st.builds(splice, st.integers(0, len(body)), st.integers(0, 12), news)


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_are_parsed_or_refused(client, path, data):
    whole = json.dumps(BODIES[path]).encode()
    body = data.draw(mutated(whole) | VALUES.map(lambda value: json.dumps(value).encode()))
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404, 422), answer.text
    assert "error" in answer.json() or "detail" in answer.json() or answer.status_code == 200


@pytest.mark.parametrize("wrong", [{"max_tokens": -1}, {"unknown": 1}, {"n": "2", "stop": [""]}])
def test_a_large_body_is_refused_as_a_small_body_is(client, wrong):
    body = {"model": "storyteller", "prompt": "the"} | wrong
    small, large = (
        client.post("/v1/completions", json=body | {"user": "a" * num_bytes})
        for num_bytes in (1, 2 * LARGE_BODY)
    )
    assert (large.status_code, large.json()) == (small.status_code, small.json())
    assert small.status_code == 400


def test_a_large_body_is_understood_as_a_small_body_is(client):
    body = {"prompt": "the", "max_length": 3, "temperature": 0}
    small, large = (
        client.post("/generate", content=json.dumps(body) + " " * num_bytes, headers=JSON)
        for num_bytes in (0, 2 * LARGE_BODY)
    )
    assert large.json() == small.json()
    assert small.status_code == 200
