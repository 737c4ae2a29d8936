"""Errors that this project raises on purpose; free of HTTP (`src/api/errors.py` maps them).

    ServiceError
    ├── StartupError              the service cannot start with its configuration
    │   ├── SettingsError         a setting has an invalid value
    │   ├── KeysError             a file of keys cannot be read
    │   └── ModelLoadError        the configured model cannot be loaded
    ├── CommandError              a command of the command line failed
    ├── InvalidRequestError       the client's fault; names the field and the remedy
    │   ├── ContextLengthError    prompt and new tokens exceed the model's context
    │   ├── InvalidGrammarError   a grammar that structured output cannot use
    │   │   └── InvalidSchemaError  likewise a JSON schema
    │   └── ModelNotFoundError    the request names a model that is not served
    ├── AdapterError              a LoRA adapter cannot be loaded
    ├── JobNotFoundError          the caller has no such file, batch or background response
    ├── JobStateError             a file or batch is not in the state that the request needs
    ├── UploadTooLargeError       a file exceeds a quota
    ├── StorageFullError          the disk of files and batches is full
    ├── StorageDownError          that disk, or the database on it, does not work
    ├── AuthenticationError       missing or unknown credentials
    ├── EngineNotReadyError       the model is still loading
    ├── OverloadedError           the queue is full, or the request waited in it too long
    ├── RateLimitedError          the caller has used up a rate limit
    ├── LimitStorageDownError     the rate-limit storage does not answer
    ├── EngineDeadError           the engine's thread has ended
    ├── GenerationTimeoutError    no token was generated within TIMEOUT_SECONDS
    ├── GenerationFailedError     the model raised while it served the request
    └── ClientDisconnectedError   the client has closed its connection

`StartupError` and `CommandError` are written for the operator, and name paths. All others are for
the caller: they hold no prompt, no path of the server and no text of other exceptions.
"""

import math

FieldPath = tuple[str | int, ...]
"""Path of a field in a request's body, such as `("prompts", 2)`."""


class ServiceError(Exception):
    """The root of the tree."""


class StartupError(ServiceError):
    """The service cannot start with its configuration; the message gives reason and remedy."""


class SettingsError(StartupError):
    """A setting has an invalid value."""


class KeysError(StartupError):
    """API keys, or keys that verify tokens, cannot be read."""


class ModelLoadError(StartupError):
    """The configured model cannot be loaded."""


class CommandError(ServiceError):
    """A command of the command line failed; the message is the sentence that it prints."""


class InvalidRequestError(ServiceError, ValueError):
    """The client's fault.

    Args:
        message: the problem, the limit and the remedy.
        field: path of the field in the request's body.
    """

    def __init__(self, message: str, field: FieldPath) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(InvalidRequestError):
    """Prompt and new tokens exceed the model's context."""


class InvalidGrammarError(InvalidRequestError):
    """A grammar is malformed, too complex or not supported."""


class InvalidSchemaError(InvalidGrammarError):
    """Likewise a JSON schema; the field's path ends inside the schema."""


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that is not served."""


class AdapterError(ServiceError):
    """A LoRA adapter cannot be loaded; the message names the entry, tensor or file.

    Routes and the start raise InvalidRequestError and ModelLoadError instead.
    """


class JobNotFoundError(ServiceError):
    """The caller has no such file, batch or background response.

    Args:
        kind: `files`, `batches` or `responses`.
        job_id: the id in the request.
        param: field or parameter that holds the id.
    """

    def __init__(self, kind: str, job_id: str, param: str = "id") -> None:
        name = {"files": "file", "batches": "batch", "responses": "background response"}[kind]
        super().__init__(f"There is no {name} {ascii(job_id[:80])[1:-1]}.")
        self.param = param


class JobStateError(ServiceError):
    """A file or batch is not in the state that the request needs."""


class UploadTooLargeError(ServiceError):
    """A file exceeds a quota.

    Args:
        max_file_bytes: of one file.
        max_owner_bytes: of all files of an owner.
    """

    def __init__(self, max_file_bytes: int, max_owner_bytes: int) -> None:
        super().__init__(
            f"The file is too large: one may have {max_file_bytes} bytes (the server's"
            f" BATCH_MAX_FILE_BYTES), all of a key {max_owner_bytes} (BATCH_QUOTA_BYTES). Delete"
            " files, or send a smaller one."
        )


class StorageFullError(ServiceError):
    """The disk of files and batches is full."""

    def __init__(self) -> None:
        super().__init__("The server's disk for files is full; try again later.")


class StorageDownError(ServiceError):
    """The disk of files and batches, or the database on it, does not work."""

    def __init__(self) -> None:
        super().__init__("Files cannot be stored: the server's BATCH_DIR cannot be used.")


class AuthenticationError(ServiceError):
    """Credentials are missing or unknown.

    Args:
        message: the remedy.
        was_given: the request had credentials.
    """

    def __init__(self, message: str, *, was_given: bool = True) -> None:
        super().__init__(message)
        self.was_given = was_given


class EngineNotReadyError(ServiceError):
    """The model is still loading."""


class OverloadedError(ServiceError):
    """The queue is full, or the request waited in it too long.

    Args:
        message: which of the two.
        retry_after: seconds after which the queue should have room.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


RATE_LIMIT_SETTINGS = {
    "requests": "RATE_LIMIT_REQUESTS or the key",
    "tokens": "RATE_LIMIT_TOKENS or the key",
    "concurrent": "RATE_LIMIT_CONCURRENT or the key",
    "address": "RATE_LIMIT_ADDRESS_REQUESTS",
    "background": "BACKGROUND_MAX_RESPONSES",
}
"""Settings that raise each limit; an API key may have limits of its own."""


UNITS = {
    "concurrent": "requests",
    "address": "requests of one address",
    "background": "unfinished background responses",
}
"""Counted things of limits, where the limit's name is another."""


class RateLimitedError(ServiceError):
    """The caller has used up a rate limit.

    Args:
        limit: name of the limit, a key of `RATE_LIMIT_SETTINGS`.
        quota: size of the limit.
        period: seconds over which usage is counted; None for concurrent requests.
        left: unused part of the quota.
        wait: seconds until the quota suffices; clients get it rounded up, at least 1.
    """

    def __init__(self, limit: str, quota: int, period: int | None, left: int, wait: float) -> None:
        self.limit = limit
        self.quota = quota
        self.period = period
        self.left = left
        self.retry_after = max(1, math.ceil(wait))
        unit = UNITS.get(limit, limit)
        window = "at the same time" if period is None else f"per {period} seconds"
        super().__init__(
            f"Rate limit exceeded: {quota} {unit} {window}, of which {left} are left. Try again in"
            f" {self.retry_after} s. The server's {RATE_LIMIT_SETTINGS[limit]} sets this limit."
        )


class LimitStorageDownError(ServiceError):
    """The rate-limit storage does not answer, and RATE_LIMIT_STORAGE_FAILURE is `closed`."""

    def __init__(self) -> None:
        super().__init__("The rate-limit storage is unavailable; try again later.")


class EngineDeadError(ServiceError):
    """The engine's thread has ended; the process must restart."""


class GenerationTimeoutError(ServiceError):
    """No token was generated within TIMEOUT_SECONDS."""


class GenerationFailedError(ServiceError):
    """The model raised while it served the request."""


class ClientDisconnectedError(ServiceError):
    """The client has closed its connection before the response."""
