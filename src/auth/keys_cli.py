"""Creates, lists and revokes API keys: `python -m src.keys create|list|revoke`.

A key is shown once, when it is created; the file keeps its hash. The service reads the file again
when it changes, without a restart.
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
    """Runs the command line; exits with a message on errors."""
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
    file = os.environ.get(FILE) or None  # an empty value counts as not set
    parser.add_argument(
        "--file",
        type=Path,
        default=file,
        required=file is None,
        help=f"file of the keys; default: the environment variable {FILE}",
    )
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="create a key, and show it once")
    create.add_argument("name", help="name of the key's owner, for logs and lists")
    create.add_argument(
        "--scopes",
        default="generate,embeddings",
        help=f"of {', '.join(Scope)}, separated by commas; default: %(default)s",
    )
    create.add_argument("--days", type=_days, help="days until it expires; default: never")
    create.add_argument("--requests", type=int, help="requests in each RATE_LIMIT_PERIOD")
    create.add_argument("--tokens", type=int, help="tokens in each RATE_LIMIT_PERIOD")
    create.add_argument("--concurrent", type=int, help="requests at the same time")
    create.add_argument(
        "--weight",
        type=int,
        default=1,
        help="share of the queue and of the engine, beside keys of weight 1",
    )
    create.set_defaults(run=_create)
    commands.add_parser(
        "list",
        help="print all keys: id, state, creation date, scopes, expiry, weight, limits, name",
    ).set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", help="id of the key, as `list` prints it")
    revoke.set_defaults(run=_revoke)
    return parser


def _days(text: str) -> timedelta:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 1 to {MAX_DAYS}")
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
    print("This key is shown once; the file keeps its SHA-256 only.", file=sys.stderr)


def _list(options: argparse.Namespace) -> None:
    for key in _read(options.file).keys:
        state = "valid" if key.is_valid else "revoked" if key.revoked_at else "expired"
        print(
            key.id,
            state,
            f"{key.created_at:%Y-%m-%d}",
            ",".join(sorted(key.scopes)),
            *_options(key),
            key.name,
        )


def _options(key: APIKey) -> Iterator[str]:
    """Yields the expiry, weight and limits of a key, as far as it has them."""
    if key.expires_at is not None:
        yield f"expires={key.expires_at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    if key.weight != 1:
        yield f"weight={key.weight}"
    for name, value in key.limits.model_dump(exclude_none=True).items():
        yield f"{name}={value}"


def _revoke(options: argparse.Namespace) -> None:
    with _locked(options.file):
        keys = _read(options.file).keys
        active = {key.id: key for key in keys if key.revoked_at is None}
        if options.id not in active:
            raise KeysError(f"there is no key {options.id} to revoke; `list` prints all ids")
        now = datetime.now(UTC).replace(microsecond=0)
        revoked = active[options.id].model_copy(update={"revoked_at": now})
        _write(
            options.file, APIKeys(keys=[revoked if key.id == revoked.id else key for key in keys])
        )
    print(f"revoked {options.id}: {revoked.name}")


def _read(path: Path) -> APIKeys:
    return APIKeys.parse(path.read_text("utf-8"))


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


if __name__ == "__main__":
    main()
