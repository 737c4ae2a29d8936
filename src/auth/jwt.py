"""JSON Web Tokens that others issue and we check (RFC 7519, with PyJWT).

One algorithm is pinned by the settings, whatever a token's header says, and it is one with a public
key: what checks tokens can issue none. Signature, issuer, audience and expiry must all be right.
"""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms

from src.auth.api_keys import Scope
from src.core.identity import Caller
from src.errors import AuthenticationError, KeysError

LEEWAY_SECONDS = 10
"""So far the clocks of issuer and server may be apart."""

REQUIRED = ["exp", "iss", "aud", "sub"]
WRONG = (
    "The token is not valid: it is malformed, expired, or not signed and issued for this service."
)
MAX_SUBJECT = 255
MIN_RSA_BITS = 2048
"""RFC 7518, 3.3; a smaller one can be broken."""


class VerificationKeys:
    """The public keys by which tokens are checked: one from a PEM file, or those of a JWKS file.

    Args:
        text: what the file holds.
        algorithm: that tokens are signed with.

    Raises:
        KeysError: it holds no public key for this algorithm.
    """

    def __init__(self, text: str, algorithm: str) -> None:
        try:
            self._by_id = _read_pem(text) if "-----BEGIN" in text else _read_jwks(text, algorithm)
            fit = [_fits(key, algorithm) for key in self._by_id.values()]
        except Exception:  # noqa: BLE001 - libraries raise all kinds at what is no key
            fit = []
        if not fit or not all(fit):
            raise KeysError(
                f"it must hold public keys for {algorithm}, as PEM or JWKS with an id each, and no"
                f" others; of RSA at least {MIN_RSA_BITS} bits"
            )

    def find(self, key_id: str | None) -> Any:
        """Returns the key of this id; where there is but one, a token need not name it.

        Raises:
            AuthenticationError: there is no such key.
        """
        if len(self._by_id) == 1 and (key_id is None or None in self._by_id):
            return next(iter(self._by_id.values()))
        if key_id not in self._by_id:
            raise AuthenticationError(WRONG)
        return self._by_id[key_id]


class TokenVerifier:
    """Finds whom a token speaks of.

    Args:
        keys: that tokens are signed with.
        algorithm: likewise.
        issuer: who must have issued them.
        audience: whom they must be for.
    """

    def __init__(self, keys: VerificationKeys, algorithm: str, issuer: str, audience: str) -> None:
        self._keys = keys
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def find(self, credential: bytes) -> Caller:
        """Returns the token's subject; its scopes are those of ours that its claim `scope` names.

        Raises:
            AuthenticationError: the token is not valid.
        """
        try:
            claims = self._decode(credential)
        except (jwt.PyJWTError, ValueError) as error:
            raise AuthenticationError(WRONG) from error
        subject, words = claims["sub"], claims.get("scope", "")
        is_name = subject.isprintable() and 0 < len(subject) <= MAX_SUBJECT
        if not is_name or not isinstance(words, str):
            raise AuthenticationError(WRONG)
        scopes = frozenset(scope for scope in Scope if scope in words.split())
        return Caller(f"jwt:{subject}", subject, scopes)

    def _decode(self, credential: bytes) -> dict[str, Any]:
        header = jwt.get_unverified_header(credential)
        return jwt.decode(
            credential,
            self._keys.find(header.get("kid")),
            algorithms=[self._algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": REQUIRED},
        )


def _fits(key: Any, algorithm: str) -> bool:
    """Whether it is of the algorithm's kind and public: a private one has no place on a server."""
    get_default_algorithms()[algorithm].prepare_key(key)
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return False
    return hasattr(key, "verify")


def _read_pem(text: str) -> dict[str | None, Any]:
    return {None: load_pem_public_key(text.encode())}


def _read_jwks(text: str, algorithm: str) -> dict[str | None, Any]:
    """Keys for encryption, which some issuers publish beside the others, are none of ours."""
    keys = [key for key in json.loads(text)["keys"] if key.get("use", "sig") == "sig"]
    by_id = {key.get("kid"): jwt.PyJWK(key, algorithm).key for key in keys}
    if len(by_id) < len(keys):
        raise KeysError("two keys have the same id, or none")
    return by_id
