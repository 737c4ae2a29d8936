"""Makes, lists and revokes API keys: `python -m src.keys create|list|revoke`.

A key is shown once, when it is made; the file keeps what it can be recognised by. The service reads
the file again when it changes, so nothing has to be restarted.
"""

import argparse
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from src.auth.api_keys import APIKey, APIKeys, KeyLimits, Scope, create_secret, sha256_of
from src.errors import KeysError

FILE = "API_KEYS_FILE"
MAX_DAYS = 36500


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says; exits with a message if it cannot."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        sys.exit(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
    except (OSError, KeysError) as error:
        sys.exit(f"{options.file}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m src.keys", description=__doc__)
    file = os.environ.get(FILE) or None  # empty is as if it were not set
    parser.add_argument(
        "--file",
        type=Path,
        default=file,
        required=file is None,
        help=f"the file of keys; by default what {FILE} is in the environment",
    )
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a key, and show it once")
    create.add_argument("name", help="whose it is, for people")
    create.add_argument(
        "--scopes",
        default="generate,embeddings",
        help=f"of {', '.join(Scope)}; by default %(default)s",
    )
    create.add_argument("--days", type=_days, help="how long it is valid; by default for ever")
    create.add_argument("--requests", type=int, help="requests in each RATE_LIMIT_PERIOD")
    create.add_argument("--tokens", type=int, help="tokens in each RATE_LIMIT_PERIOD")
    create.add_argument("--concurrent", type=int, help="requests at the same time")
    create.add_argument(
        "--weight", type=int, default=1, help="turns in the queue for one of others'"
    )
    create.set_defaults(run=_create)
    commands.add_parser(
        "list", help="tell of all keys: id, state, made when, scopes, expiry, weight, limits, name"
    ).set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="make a key invalid")
    revoke.add_argument("id", help="as `list` shows it")
    revoke.set_defaults(run=_revoke)
    return parser


def _days(text: str) -> timedelta:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text} is no number of days from 1 to {MAX_DAYS}")
    return timedelta(days=int(text))


def _create(options: argparse.Namespace) -> None:
    key_id, secret = create_secret()
    now = datetime.now(UTC).replace(microsecond=0)
    key = APIKey(
        id=key_id,
        name=options.name,
        sha256=sha256_of(secret),
        scopes=options.scopes.split(","),
        created_at=now,
        expires_at=now + options.days if options.days else None,
        limits=KeyLimits(
            requests=options.requests, tokens=options.tokens, concurrent=options.concurrent
        ),
        weight=options.weight,
    )
    with _locked(options.file):
        keys = _read(options.file) if options.file.exists() else APIKeys()
        _write(options.file, APIKeys(keys=[*keys.keys, key]))
    print(secret)
    print("This is shown once; the file holds its SHA-256 alone.", file=sys.stderr)


def _list(options: argparse.Namespace) -> None:
    for key in _read(options.file).keys:
        state = "valid" if key.is_valid else "revoked" if key.revoked_at else "expired"
        print(
            key.id,
            state,
            f"{key.created_at:%Y-%m-%d}",
            ",".join(sorted(key.scopes)),
            *_particulars(key),
            key.name,
        )


def _particulars(key: APIKey) -> Iterator[str]:
    """What a key has that not all have."""
    if key.expires_at is not None:
        yield f"expires={key.expires_at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    if key.weight != 1:
        yield f"weight={key.weight}"
    for name, value in key.limits.model_dump(exclude_none=True).items():
        yield f"{name}={value}"


def _revoke(options: argparse.Namespace) -> None:
    with _locked(options.file):
        keys = _read(options.file).keys
        found = [key for key in keys if key.id == options.id and key.revoked_at is None]
        if not found:
            raise KeysError(f"there is no key {options.id} that could be revoked")
        now = datetime.now(UTC).replace(microsecond=0)
        revoked = found[0].model_copy(update={"revoked_at": now})
        _write(options.file, APIKeys(keys=[revoked if key is found[0] else key for key in keys]))
    print(f"revoked {options.id}: {found[0].name}")


def _read(path: Path) -> APIKeys:
    return APIKeys.parse(path.read_text("utf-8"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile; its folder is locked, as the file is replaced."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: APIKeys) -> None:
    """Replaces the file whole, for its owner alone to read."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.dump())
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    main()
