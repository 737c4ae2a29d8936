"""What an error answer holds: OpenAI's shape on the routes of its API, FastAPI's on all others."""

from typing import Any

from starlette.types import Scope

OPENAI_ROUTES = ("/v1", "/tokenize", "/detokenize")

# Status to OpenAI's type, and the code of an error of which no more is known.
KINDS: dict[int, tuple[str, str | None]] = {
    404: ("invalid_request_error", "unknown_url"),
    405: ("invalid_request_error", "method_not_supported"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}
OTHERS = ("invalid_request_error", None)


def speaks_openai(scope: Scope) -> bool:
    """Whether a request is to OpenAI's API; the path as sent says so, whatever the Host header."""
    path = scope["path"]
    return any(path == route or path.startswith(route + "/") for route in OPENAI_ROUTES)


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
        param: OpenAI's name of the field that is wrong.
        code: OpenAI's name of the problem.
    """
    if not speaks_openai(scope):
        return {"detail": message}
    kind, usual_code = KINDS.get(status_code, OTHERS)
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual_code}}
