"""Check of exercise 14."""

import base64
import hashlib
import hmac
import json
from typing import Any

SECRET = b"a secret of the lesson, which is long enough for HS256"
NOW = 1_000_000.0
CLAIMS = {"aud": "inference", "sub": "alice", "exp": NOW + 60}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def create(claims: object, header: object = None, secret: bytes = SECRET) -> str:
    """Creates a token that is signed with HMAC-SHA256, whatever its header says."""
    header = header or {"alg": "HS256", "typ": "JWT"}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def forged() -> dict[str, str]:
    """Returns tokens that must not be trusted, by what is wrong with them."""
    good = create(CLAIMS)
    header, payload, signature = good.split(".")
    changed = encode(json.dumps(CLAIMS | {"sub": "bob"}).encode())
    without_expiry = {name: value for name, value in CLAIMS.items() if name != "exp"}
    return {
        "an empty text": "",
        "two parts": f"{header}.{payload}",
        "four parts": f"{good}.{signature}",
        "no base64": "%.%.%",
        "no signature": f"{header}.{payload}.",
        "half a signature": f"{header}.{payload}.{signature[:20]}",
        "another secret": create(CLAIMS, secret=b"guessed"),
        "changed claims": f"{header}.{changed}.{signature}",
        "alg none, signed": create(CLAIMS, {"alg": "none"}),
        "alg none, not signed": f"{encode(json.dumps({'alg': 'none'}).encode())}.{payload}.",
        "no alg": create(CLAIMS, {"typ": "JWT"}),
        "another audience": create(CLAIMS | {"aud": "payroll"}),
        "no audience": create({"sub": "alice", "exp": NOW + 60}),
        "expired": create(CLAIMS | {"exp": NOW - 1}),
        "expired right now": create(CLAIMS | {"exp": NOW}),
        "no expiry": create(without_expiry),
        "an expiry that is no number": create(CLAIMS | {"exp": "tomorrow"}),
        "claims that are a list": create([CLAIMS]),
        "letters outside of ASCII": "é.ü.ö",
    }


def check(answer: dict[str, Any]) -> None:
    """Verifies good tokens and forged ones."""
    verify = answer["verify"]
    for claims in (CLAIMS, CLAIMS | {"exp": NOW + 0.5}, CLAIMS | {"scope": "generate metrics"}):
        given = verify(create(claims), SECRET, "inference", NOW)
        assert given == claims, f"A good token: {claims}, not {given}."
    for name, token in forged().items():
        try:
            given = verify(token, SECRET, "inference", NOW)
        except Exception as error:
            raise AssertionError(f"A token with {name} raises {type(error).__name__}.") from error
        assert given is None, f"A token with {name} is trusted: {given}."
