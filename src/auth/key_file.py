"""The file of API keys as the command line changes it: keys are created, listed and revoked.

A key is shown once, when it is created; the file keeps its hash. The service reads the file again
when it changes, without a restart.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from src.auth.api_keys import APIKey, APIKeys, create_secret, sha256_of
from src.errors import KeysError


def create_key(
    path: Path,
    name: str,
    scopes: Iterable[str],
    days: int | None = None,
    limits: dict[str, int | None] | None = None,
    weight: int = 1,
) -> str:
    """Adds a key to the file, which may not exist yet, and returns the key itself.

    Args:
        path: of the file.
        name: of the key's owner.
        scopes: names of its scopes.
        days: until it expires; None is never.
        limits: the key's own, by their names in `KeyLimits`.
        weight: its share of the queue and of the engine.

    Raises:
        KeysError: the file cannot be read as keys, or a value is invalid.
    """
    key_id, secret = create_secret()
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key = APIKey.model_validate(
            {
                "id": key_id,
                "name": name,
                "sha256": sha256_of(secret),
                "scopes": scopes,
                "created_at": now,
                "expires_at": now + timedelta(days=days) if days else None,
                "limits": limits or {},
                "weight": weight,
            }
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise KeysError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    with _locked(path):
        keys = read_file(path) if path.exists() else APIKeys()
        _write(path, APIKeys(keys=[*keys.keys, key]))
    return secret


def read_file(path: Path) -> APIKeys:
    """Returns the keys of a file.

    Raises:
        KeysError: it cannot be read as keys.
    """
    try:
        return APIKeys.parse(path.read_text("utf-8"))
    except KeysError as error:
        raise KeysError(f"{path}: {error}") from error


def describe(key: APIKey) -> str:
    """Returns a key on one line: id, state, creation, scopes, and what else it has; its name."""
    state = "valid" if key.is_valid else "revoked" if key.revoked_at else "expired"
    scopes = ",".join(sorted(key.scopes))
    parts = (key.id, state, f"{key.created_at:%Y-%m-%d}", scopes, *_options(key), key.name)
    return " ".join(parts)


def _options(key: APIKey) -> Iterator[str]:
    """Yields the expiry, weight and limits of a key, as far as it has them."""
    if key.expires_at is not None:
        yield f"expires={key.expires_at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    if key.weight != 1:
        yield f"weight={key.weight}"
    for name, value in key.limits.model_dump(exclude_none=True).items():
        yield f"{name}={value}"


def revoke_key(path: Path, key_id: str) -> APIKey:
    """Revokes a key and returns it.

    Raises:
        KeysError: the file cannot be read as keys, or has no such key that is not revoked.
    """
    with _locked(path):
        keys = read_file(path).keys
        active = {key.id: key for key in keys if key.revoked_at is None}
        if key_id not in active:
            raise KeysError(f"{path}: there is no key {key_id} to revoke; `list` prints all ids")
        now = datetime.now(UTC).replace(microsecond=0)
        revoked = active[key_id].model_copy(update={"revoked_at": now})
        _write(path, APIKeys(keys=[revoked if key.id == key_id else key for key in keys]))
    return revoked


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks the file against other writers; the lock is its folder's, as the file is replaced."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: APIKeys) -> None:
    """Replaces the file atomically, with mode 0600."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.dump())
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
