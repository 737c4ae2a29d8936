"""Every error this project raises on purpose; knows no HTTP (`src/api/errors.py` does).

    ServiceError
    ├── StartupError              the service cannot start as it was asked to
    │   ├── SettingsError         a setting has a bad value
    │   ├── KeysError             keys that cannot be read
    │   └── ModelLoadError        the model that was asked for cannot be loaded
    ├── InvalidRequestError       the caller's fault: names the field and the remedy
    │   ├── ContextLengthError    prompt and new tokens do not fit the model's context
    │   ├── InvalidGrammarError   answers cannot be shaped as it says
    │   │   └── InvalidSchemaError  likewise, by a JSON schema
    │   └── ModelNotFoundError    another model than the one that is served was asked for
    ├── AuthenticationError       nobody knows whose the key or token is
    ├── EngineNotReadyError       the model is still loading
    ├── OverloadedError           too many wait, or this one waited too long for its turn
    ├── RateLimitedError          the caller has had as much as it may have for now
    ├── LimitStorageDownError     it cannot be counted whether the caller is within its limit
    ├── EngineDeadError           the engine's thread has ended; nothing can be generated any more
    ├── GenerationTimeoutError    no answer has begun by TIMEOUT_SECONDS
    ├── GenerationFailedError     the model raised while it served this request
    └── ClientDisconnectedError   nobody is left to answer

A `StartupError` is written for the operator, and names paths. All others are for the caller: they
hold no prompt, no path of the server and no text of other exceptions.
"""

import math


class ServiceError(Exception):
    """The root of the tree."""


class StartupError(ServiceError):
    """The service cannot start as it was asked to; the message says why and what to do."""


class SettingsError(StartupError):
    """A setting has a bad value."""


class KeysError(StartupError):
    """API keys, or keys to check tokens with, that cannot be read."""


class ModelLoadError(StartupError):
    """The model that was asked for cannot be loaded."""


class InvalidRequestError(ServiceError, ValueError):
    """The caller's fault.

    Args:
        message: what is wrong, the limit, and the remedy.
        field: where it is in the request's body, such as `("prompts", 2)`.
    """

    def __init__(self, message: str, field: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(InvalidRequestError):
    """Prompt and new tokens do not fit the model's context."""


class InvalidGrammarError(InvalidRequestError):
    """A grammar that answers cannot be shaped by: malformed, too complex, or not supported."""


class InvalidSchemaError(InvalidGrammarError):
    """Likewise a JSON schema; the field ends with the place in it."""


class ModelNotFoundError(InvalidRequestError):
    """Another model than the one that is served was asked for."""


class AuthenticationError(ServiceError):
    """Nobody knows whose the key or token is.

    Args:
        message: what to do about it.
        was_given: whether something was sent to be known by.
    """

    def __init__(self, message: str, *, was_given: bool = True) -> None:
        super().__init__(message)
        self.was_given = was_given


class EngineNotReadyError(ServiceError):
    """The model is still loading."""


class OverloadedError(ServiceError):
    """Too many requests wait, or this one waited too long for its turn.

    Args:
        message: which of the two.
        retry_after: seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


RATE_LIMIT_SETTINGS = {
    "requests": "RATE_LIMIT_REQUESTS or the key",
    "tokens": "RATE_LIMIT_TOKENS or the key",
    "concurrent": "RATE_LIMIT_CONCURRENT or the key",
    "address": "RATE_LIMIT_ADDRESS_REQUESTS",
}
"""A limit's name to what an operator changes for another one; a key may have limits of its own."""


class RateLimitedError(ServiceError):
    """The caller has had as much as it may have for now.

    Args:
        limit: of what: requests, tokens, concurrent requests, or requests of an address.
        quota: how much it may have.
        period: in so many seconds; None is at the same time.
        left: how much of that is left.
        wait: seconds after which there is enough again; told as a whole number, at least 1.
    """

    def __init__(self, limit: str, quota: int, period: int | None, left: int, wait: float) -> None:
        self.limit = limit
        self.quota = quota
        self.period = period
        self.left = left
        self.retry_after = max(1, math.ceil(wait))
        what = {"concurrent": "requests", "address": "requests of one address"}.get(limit, limit)
        each = "at the same time" if period is None else f"per {period} seconds"
        super().__init__(
            f"Rate limit exceeded: {quota} {what} {each}, of which {left} are left. Try again in"
            f" {self.retry_after} s. The server's {RATE_LIMIT_SETTINGS[limit]} sets this limit."
        )


class LimitStorageDownError(ServiceError):
    """It cannot be counted whether the caller is within its rate limit."""

    def __init__(self) -> None:
        super().__init__("Requests cannot be counted at the moment, and none is taken uncounted.")


class EngineDeadError(ServiceError):
    """The engine's thread has ended; nothing can be generated any more."""


class GenerationTimeoutError(ServiceError):
    """A request had no part of an answer after TIMEOUT_SECONDS."""


class GenerationFailedError(ServiceError):
    """The model raised while it served this request."""


class ClientDisconnectedError(ServiceError):
    """Nobody is left to answer."""
