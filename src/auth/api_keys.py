"""API keys: their format, creation and verification.

A key is `llmk_ID_SECRET`. The id is public and appears in logs. The secret is 32 random bytes. Only
the SHA-256 of the whole key is stored; with this much entropy no slow hash is needed.
"""

import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from src.core.identity import Caller, CallerLimits
from src.errors import AuthenticationError, KeysError

PREFIX = "llmk"
NO_SHA256 = hashlib.sha256(b"").hexdigest()
"""Compared with for unknown ids, which then take as long as known ones."""

WRONG = "The API key is unknown, expired or revoked."
Amount = Annotated[int, Field(ge=1, le=10**12)]


class Scope(StrEnum):
    """Permission of an API key or token."""

    GENERATE = "generate"
    EMBEDDINGS = "embeddings"
    METRICS = "metrics"
    PRIORITY = "priority"  # requests before the key's other ones; opens no route
    ADMIN = "admin"  # everything


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyLimits(_Strict):
    """Limits of a key; None stands for those of the settings."""

    requests: Amount | None = None
    tokens: Amount | None = None
    concurrent: Amount | None = None


class APIKey(_Strict):
    """An API key without its secret."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\P{C}*$")]  # one line
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    limits: KeyLimits = KeyLimits()
    weight: Annotated[int, Field(ge=1, le=100)] = 1

    @property
    def is_valid(self) -> bool:
        """Returns True if the key is neither revoked nor expired."""
        expired = self.expires_at is not None and self.expires_at <= datetime.now(UTC)
        return self.revoked_at is None and not expired

    def caller(self) -> Caller:
        """Returns the caller that the key identifies."""
        return Caller(
            self.id,
            self.name,
            frozenset(self.scopes),
            CallerLimits(**self.limits.model_dump()),
            self.weight,
        )


class APIKeys(_Strict):
    """All keys, as in the file of API_KEYS_FILE."""

    keys: list[APIKey] = []

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads keys from JSON.

        Raises:
            KeysError: names the first problem and its place, without quoting the input.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, problem["loc"])) or "the whole"
            raise KeysError(f"{place}: {problem['msg']}") from None

    def dump(self) -> str:
        """Returns the keys as JSON."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2) + "\n"


class KeyVerifier:
    """Authenticator for API keys."""

    def __init__(self, keys: APIKeys) -> None:
        self._keys = {key.id: key for key in keys.keys}

    def find(self, credential: bytes) -> Caller:
        """Returns the caller of a key, in a time that does not depend on where a wrong one differs.

        Raises:
            AuthenticationError: the key is unknown, expired or revoked.
        """
        key = self._keys.get(_id_of(credential))
        digest = hashlib.sha256(credential).hexdigest()
        is_same = hmac.compare_digest(digest, key.sha256 if key else NO_SHA256)
        if key is None or not is_same or not key.is_valid:
            raise AuthenticationError(WRONG)
        return key.caller()

    def refresh(self, caller: Caller) -> Caller:
        """Returns a key's caller with its present scopes and limits.

        Raises:
            AuthenticationError: the key is expired, revoked or removed.
        """
        key = self._keys.get(caller.id)
        if key is None or not key.is_valid:
            raise AuthenticationError(WRONG)
        return key.caller()


def create_secret() -> tuple[str, str]:
    """Returns the id of a new key, and the key itself."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"


def sha256_of(key: str) -> str:
    """Returns the hash by which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def _id_of(credential: bytes) -> str:
    parts = credential.split(b"_", 2)
    return parts[1].decode("latin-1") if len(parts) == 3 else ""
