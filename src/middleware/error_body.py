"""What an error answer holds: its shape is that of the API that the request was made for."""

from enum import StrEnum
from typing import Any

from starlette.types import Scope

REQUEST_ID = "request_id"
"""Where `RequestLogMiddleware` leaves a request's id in its scope."""


CALLER = "caller"
"""Where `AuthMiddleware` leaves whose it is."""


class Dialect(StrEnum):
    """Whose words an answer is in."""

    NATIVE = "native"  # FastAPI's
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


# The first that fits counts.
ROUTES = {
    "/v1/messages": Dialect.ANTHROPIC,
    "/v1": Dialect.OPENAI,
    "/tokenize": Dialect.OPENAI,
    "/detokenize": Dialect.OPENAI,
    "/tokenizer_info": Dialect.OPENAI,
}

# Status to OpenAI's type, and the code of an error of which no more is known.
KINDS: dict[int, tuple[str, str | None]] = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_scope"),
    404: ("invalid_request_error", "unknown_url"),
    405: ("invalid_request_error", "method_not_supported"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: ("invalid_request_error", "headers_too_large"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}
OTHERS = ("invalid_request_error", None)

# Status to Anthropic's type.
ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def dialect_of(scope: Scope) -> Dialect:
    """Whose API a request is made for; the path as sent says so, whatever the Host header."""
    path = scope["path"]
    for route, dialect in ROUTES.items():
        if path == route or path.startswith(route + "/"):
            return dialect
    return Dialect.NATIVE


def error_body(
    scope: Scope,
    status_code: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Returns what the answer to a failed request says, in the shape that its route has.

    Args:
        scope: the request's.
        status_code: of the answer, also if it comes too late to be sent as such.
        message: what is wrong.
        param: the API's name of the field that is wrong.
        code: OpenAI's name of the problem.
    """
    dialect = dialect_of(scope)
    if dialect is Dialect.NATIVE:
        return {"detail": message}
    if dialect is Dialect.ANTHROPIC:
        kind = ANTHROPIC_KINDS.get(status_code, "invalid_request_error")
        error = {"type": kind, "message": f"{param}: {message}" if param else message}
        return {"type": "error", "error": error, "request_id": scope.get(REQUEST_ID)}
    kind, usual_code = KINDS.get(status_code, OTHERS)
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual_code}}
