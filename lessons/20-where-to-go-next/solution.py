"""An answer to exercise 20."""

import hashlib
from collections.abc import Mapping


def variant(user: str, experiment: str, shares: Mapping[str, float]) -> str:
    """Returns the variant of a user in an experiment."""
    digest = hashlib.sha256(f"{experiment}\n{user}".encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64  # evenly in [0, 1)
    upper, last = 0.0, ""
    for name, share in shares.items():
        if share > 0:
            upper, last = upper + share, name
            if position < upper:
                return name
    return last  # the shares add up to a little less than 1
