"""Factories of the authenticator that the settings ask for."""

from src.auth.api_keys import APIKeys, KeyVerifier
from src.auth.jwt import TokenVerifier, VerificationKeys
from src.auth.watched_file import WatchedFile
from src.config import Settings
from src.errors import KeysError, SettingsError

Watched = WatchedFile[KeyVerifier] | WatchedFile[TokenVerifier]


def read_keys(settings: Settings) -> KeyVerifier | None:
    """Reads API_KEYS; returns None if it is not set.

    Raises:
        SettingsError: the keys cannot be parsed.
    """
    if settings.api_keys is None:
        return None
    try:
        return _create_key_verifier(settings.api_keys)
    except KeysError as error:
        raise SettingsError(f"API_KEYS cannot be used: {error}.") from None


def watch_keys(settings: Settings) -> Watched | None:
    """Reads API_KEYS_FILE or JWT_KEY_FILE; returns None if neither is set.

    Raises:
        SettingsError: the file cannot be read or parsed.
    """
    if settings.api_keys_file is not None:
        return WatchedFile(settings.api_keys_file, "API_KEYS_FILE", _create_key_verifier)
    path, issuer, audience = settings.jwt_key_file, settings.jwt_issuer, settings.jwt_audience
    if path is None or issuer is None or audience is None:
        return None
    algorithm = settings.jwt_algorithm

    def create_token_verifier(text: str) -> TokenVerifier:
        return TokenVerifier(VerificationKeys(text, algorithm), algorithm, issuer, audience)

    return WatchedFile(path, "JWT_KEY_FILE", create_token_verifier)


def _create_key_verifier(text: str) -> KeyVerifier:
    return KeyVerifier(APIKeys.parse(text))
