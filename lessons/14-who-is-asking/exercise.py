"""Exercise 14: verify a JSON Web Token by hand."""

from typing import Any


def verify(token: str, secret: bytes, audience: str, now: float) -> dict[str, Any] | None:
    """Returns the claims of a token, or None if it must not be trusted.

    A token is `HEADER.PAYLOAD.SIGNATURE`. Each part is base64url without its padding (`=`). Header
    and payload are JSON objects. The signature is HMAC-SHA256 with the secret, of the text
    `HEADER.PAYLOAD` as it was sent.

    A token is trusted if all of this is true:

    - It has three parts, and they can be decoded.
    - The header's `alg` is HS256, and the signature is right (use `hmac.compare_digest`).
    - `aud` equals the audience.
    - `exp`, a number of seconds, is after `now`. A token without it is not trusted.

    Whatever a token holds, no exception leaves this function.
    """
    raise NotImplementedError
