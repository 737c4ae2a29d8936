"""Verification of JSON Web Tokens (RFC 7519) from an external issuer, with PyJWT.

The settings pin one asymmetric algorithm, whatever a token's header says, so the keys that verify
tokens cannot sign any. Signature, issuer, audience and expiry must all be valid.
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
"""Tolerated difference between the clocks of issuer and server."""

REQUIRED = ["exp", "iss", "aud", "sub"]
WRONG = (
    "The token is not valid: it is malformed, expired, or not signed and issued for this service."
)
MAX_SUBJECT = 255
MIN_RSA_BITS = 2048
"""Minimum by RFC 7518, section 3.3; smaller keys can be broken."""


class VerificationKeys:
    """Public keys that verify tokens: one from a PEM file, or all of a JWKS file (RFC 7517).

    Args:
        text: content of the file.
        algorithm: of the tokens' signatures.

    Raises:
        KeysError: the file holds no public key for this algorithm, or other keys beside.
    """

    def __init__(self, text: str, algorithm: str) -> None:
        try:
            self._by_id = _read_pem(text) if "-----BEGIN" in text else _read_jwks(text, algorithm)
            fit = [_fits(key, algorithm) for key in self._by_id.values()]
        except Exception:  # noqa: BLE001 - libraries raise all kinds of errors for malformed keys
            fit = []
        if not fit or not all(fit):
            raise KeysError(
                f"it must hold public keys for {algorithm} alone, as PEM, or as JWKS with one id"
                f" for each key; RSA keys need at least {MIN_RSA_BITS} bits"
            )

    def find(self, key_id: str | None) -> Any:
        """Returns the key of an id; a token may leave the id out if there is one key.

        Raises:
            AuthenticationError: there is no such key.
        """
        if len(self._by_id) == 1 and (key_id is None or None in self._by_id):
            return next(iter(self._by_id.values()))
        if key_id not in self._by_id:
            raise AuthenticationError(WRONG)
        return self._by_id[key_id]


class TokenVerifier:
    """Authenticator for JSON Web Tokens.

    Args:
        keys: verify the signatures.
        algorithm: of the signatures.
        issuer: required value of the claim `iss`.
        audience: required value of the claim `aud`.
    """

    def __init__(self, keys: VerificationKeys, algorithm: str, issuer: str, audience: str) -> None:
        self._keys = keys
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def find(self, credential: bytes) -> Caller:
        """Returns the token's subject, with the known scopes of its claim `scope`.

        Raises:
            AuthenticationError: the token is not valid.
        """
        try:
            claims = self._decode(credential)
        except (jwt.PyJWTError, ValueError) as error:
            raise AuthenticationError(WRONG) from error
        subject, claimed_scopes = claims["sub"], claims.get("scope", "")
        is_name = subject.isprintable() and 0 < len(subject) <= MAX_SUBJECT
        if not is_name or not isinstance(claimed_scopes, str):
            raise AuthenticationError(WRONG)
        scopes = frozenset(scope for scope in Scope if scope in claimed_scopes.split())
        return Caller(f"jwt:{subject}", subject, scopes)

    def refresh(self, caller: Caller) -> Caller:
        """Returns the caller: what its token allowed holds for the work that it began."""
        return caller

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
    """Returns True if a key is public and of the algorithm's kind; raises if of another kind."""
    get_default_algorithms()[algorithm].prepare_key(key)
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return False
    return hasattr(key, "verify")


def _read_pem(text: str) -> dict[str | None, Any]:
    return {None: load_pem_public_key(text.encode())}


def _read_jwks(text: str, algorithm: str) -> dict[str | None, Any]:
    """Returns the keys by id, without encryption keys, which some issuers publish beside them."""
    keys = [key for key in json.loads(text)["keys"] if key.get("use", "sig") == "sig"]
    by_id = {key.get("kid"): jwt.PyJWK(key, algorithm).key for key in keys}
    if len(by_id) < len(keys):
        raise KeysError("two keys have the same id, or none")
    return by_id
