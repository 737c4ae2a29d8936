"""Builds what the settings ask for: who knows whose a key or a token is."""

from src.auth.api_keys import APIKeys, KeyVerifier
from src.auth.jwt import TokenVerifier, VerificationKeys
from src.auth.watched_file import WatchedFile
from src.config import Settings
from src.errors import KeysError, SettingsError

Watched = WatchedFile[KeyVerifier] | WatchedFile[TokenVerifier]


def read_keys(settings: Settings) -> KeyVerifier | None:
    """Reads API_KEYS; None if the keys are elsewhere.

    Raises:
        SettingsError: they cannot be read.
    """
    if settings.api_keys is None:
        return None
    try:
        return _find_by_key(settings.api_keys)
    except KeysError as error:
        raise SettingsError(f"API_KEYS cannot be used: {error}.") from None


def watch_keys(settings: Settings) -> Watched | None:
    """Reads the file of AUTH=api_key or AUTH=jwt; None if there is none.

    Raises:
        SettingsError: it cannot be read.
    """
    if settings.api_keys_file is not None:
        return WatchedFile(settings.api_keys_file, "API_KEYS_FILE", _find_by_key)
    path, issuer, audience = settings.jwt_key_file, settings.jwt_issuer, settings.jwt_audience
    if path is None or issuer is None or audience is None:
        return None
    algorithm = settings.jwt_algorithm

    def find_by_token(text: str) -> TokenVerifier:
        return TokenVerifier(VerificationKeys(text, algorithm), algorithm, issuer, audience)

    return WatchedFile(path, "JWT_KEY_FILE", find_by_token)


def _find_by_key(text: str) -> KeyVerifier:
    return KeyVerifier(APIKeys.parse(text))
