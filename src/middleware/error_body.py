"""JSON bodies of error answers, in the format of the API family that a request was sent to."""

from typing import Any

from starlette.types import Scope

from src.middleware.route_policy import policy_of

REQUEST_ID = "request_id"
"""Key of a request's id in its ASGI scope; `RequestLogMiddleware` sets it."""

CALLER = "caller"
"""Key of a request's `Caller` in its ASGI scope; `AuthMiddleware` sets it."""

INTERNAL_CALLER = "internal_caller"
"""Key of the `Caller` of a request that this process makes itself, such as for a batch's line.

It stands for a credential. No request from the network can have it, as servers set no such key.
"""


def error_body(
    scope: Scope,
    status_code: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Returns the body of an error answer.

    Args:
        scope: the request's, with its route policy.
        status_code: status of the answer, or of a stream that fails after its status was sent.
        message: the problem and the remedy.
        param: path of the invalid field, as the API writes it.
        code: OpenAI's error code; None derives it from the status.
    """
    return policy_of(scope).family.error_body(
        status_code, message, param=param, code=code, request_id=scope.get(REQUEST_ID)
    )
