"""AUTH=jwt: accepted and refused tokens, and files of keys."""

import base64
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import RSAAlgorithm

from src.errors import SettingsError
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.keys import bearer
from tests.support.servers import LocalServer

ISSUER, AUDIENCE = "https://login.example", "llm-inference"
BODY = {"prompt": "the", "max_length": 1}


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwks(**keys: rsa.RSAPrivateKey) -> str:
    entries = [
        RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": name, "use": "sig"}
        for name, key in keys.items()
    ]
    return json.dumps({"keys": entries})


def claims(**changes: object) -> dict[str, object]:
    """Returns the claims of a valid token with changes; None removes a claim."""
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(time.time()) + 60,
        "scope": "openid generate metrics",
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def sign(key: rsa.RSAPrivateKey, headers: dict[str, object] | None = None, **changes) -> str:
    return jwt.encode(claims(**changes), key, "RS256", headers)


@pytest.fixture
def start_with(start_server, tmp_path):
    """Starts a server that verifies tokens with the keys of a file of this text."""

    def start(text: str) -> tuple[LocalServer, Path]:
        file = tmp_path / "public"
        file.write_text(text)
        settings = {"jwt_key_file": file, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
        return start_server(auth="jwt", **settings), file

    return start


def status(server: LocalServer, token: str) -> int:
    return server.post(BODY, headers=bearer(token)).status_code


def encoded(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_a_valid_token_lets_in_and_nothing_else_does(start_with, private_key, other_key):
    server, _ = start_with(pem(private_key))
    server.headers = bearer(sign(private_key))
    assert server.post(BODY).status_code == 200
    now = int(time.time())
    valid = sign(private_key)
    _, payload, signature = valid.split(".")
    crit = {"crit": ["b64"], "b64": True}
    wrong = {
        "alg none": jwt.encode(claims(), None, "none"),
        "alg none, a signature": f"{encoded({'alg': 'none'})}.{payload}.{signature}",
        "HS256 with the public key": hs256(pem(private_key)),
        "another algorithm": jwt.encode(claims(), private_key, "RS512"),
        "another's key": sign(other_key),
        "an unknown crit": sign(private_key, {"crit": ["exp-x"], "exp-x": 1}),
        "a crit that is not supported": sign(private_key, crit),
        "expired": sign(private_key, exp=now - 60),
        "no expiry": sign(private_key, exp=None),
        "an expiry that is no number": sign(private_key, exp="never"),
        "not yet": sign(private_key, nbf=now + 600),
        "another audience": sign(private_key, aud="other"),
        "no audience": sign(private_key, aud=None),
        "another issuer": sign(private_key, iss="https://evil.example"),
        "no issuer": sign(private_key, iss=None),
        "no subject": sign(private_key, sub=None),
        "an empty subject": sign(private_key, sub=""),
        "a long subject": sign(private_key, sub="x" * 300),
        "a subject of two lines": sign(private_key, sub="alice\nstatus=200"),
        "a subject that clears the screen": sign(private_key, sub="\x1b[2J"),
        "a subject of half a character": sign(private_key, sub="\ud800"),
        "scopes that are no text": sign(private_key, scope=["generate"]),
        "a changed payload": f"{valid.split('.')[0]}.{encoded(claims(sub='eve'))}.{signature}",
        "no signature": valid.rpartition(".")[0] + ".",
        "two parts": valid.rpartition(".")[0],
        "no token": "x",
        "a deep header": base64.urlsafe_b64encode(b"[" * 5000).decode() + f".{payload}.{signature}",
    }
    for case, token in wrong.items():
        response = server.post(BODY, headers=bearer(token))
        assert response.status_code == 401, case
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
        assert set(response.json()) == {"detail"}


def hs256(secret: str) -> str:
    """Returns a token signed by HMAC with a public key, which PyJWT refuses to create."""
    import hashlib
    import hmac

    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims())}"
    digest = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def test_the_claim_scope_decides(start_with, private_key):
    server, _ = start_with(pem(private_key))
    server.headers = bearer(sign(private_key))
    assert server.get("/metrics").status_code == 200
    assert status(server, sign(private_key, scope="embeddings openid")) == 403
    assert status(server, sign(private_key, scope=None)) == 403
    assert status(server, sign(private_key, scope="admin")) == 200


def test_keys_of_a_jwks_file_are_selected_by_id_and_can_be_rotated(
    start_with, private_key, other_key
):
    server, file = start_with(jwks(a=private_key))
    server.headers = bearer(sign(private_key, {"kid": "a"}, scope="admin"))
    assert status(server, sign(private_key, {"kid": "a"})) == 200
    assert status(server, sign(private_key)) == 200, "a single key needs no id"
    assert status(server, sign(private_key, {"kid": "b"})) == 401
    file.write_text(jwks(a=private_key, b=other_key))
    wait_until(lambda: status(server, sign(other_key, {"kid": "b"})) == 200)
    assert status(server, sign(private_key, {"kid": "a"})) == 200
    assert status(server, sign(private_key)) == 401, "of several keys the id must be given"
    assert status(server, sign(other_key, {"kid": "a"})) == 401
    file.write_text(jwks(b=other_key))
    wait_until(lambda: status(server, sign(private_key, {"kid": "a"})) == 401)
    server.headers = bearer(sign(other_key, {"kid": "b"}, scope="admin"))


def test_encryption_keys_of_a_jwks_file_verify_no_tokens(start_with, private_key, other_key):
    keys = json.loads(jwks(a=private_key, e=other_key))
    keys["keys"][1] |= {"use": "enc", "alg": "RSA-OAEP"}
    server, _ = start_with(json.dumps(keys))
    server.headers = bearer(sign(private_key, {"kid": "a"}, scope="admin"))
    assert status(server, sign(private_key, {"kid": "a"})) == 200
    assert status(server, sign(other_key, {"kid": "e"})) == 401


def bad_key_files(private_key: rsa.RSAPrivateKey) -> dict[str, str]:
    private = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    elliptic = ec.generate_private_key(ec.SECP256R1())
    public = RSAAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
    unnamed = json.dumps({"keys": [public, public]})
    return {
        "nothing": "",
        "no key": '{"keys": []}',
        "a private key": private.decode(),
        "a private key in JWKS": json.dumps({"keys": [RSAAlgorithm.to_jwk(private_key, True)]}),
        "a key of another kind": pem(elliptic),
        "a weak key": pem(rsa.generate_private_key(65537, 1024)),
        "keys without an id": unnamed,
        "keys of one id": unnamed.replace('"kty"', '"kid": "a", "kty"'),
        "a key for encryption alone": jwks(a=private_key).replace('"sig"', '"enc"'),
        "a symmetric key": json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}),
    }


def test_a_file_without_a_suitable_public_key_ends_the_start(tmp_path, private_key):
    file = tmp_path / "public"
    settings = {"jwt_key_file": file, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    for case, text in bad_key_files(private_key).items():
        file.write_text(text)
        with pytest.raises(SettingsError, match="must hold public keys for RS256") as caught:
            create_app(create_settings(auth="jwt", **settings))
        assert "PRIVATE" not in str(caught.value), case
