"""What pydantic says of a request, in the words of OpenAI's API and of Anthropic's."""

from collections.abc import Sequence
from typing import Any

from src.middleware.error_body import Dialect

MAX_PROBLEMS = 5

# Kinds of pydantic's problems to OpenAI's codes.
CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "json_invalid": "invalid_json",
}


def param_of(loc: Sequence[str | int], dialect: Dialect = Dialect.OPENAI) -> str | None:
    """Where a field is, as `messages.[0].content`; None is the body as a whole.

    Anthropic writes `messages.0.content`. Names like `<text>` are ours, of kinds of items.
    """
    item = "[{}]" if dialect is Dialect.OPENAI else "{}"
    parts = (
        item.format(part) if isinstance(part, int) else part
        for part in loc
        if not (isinstance(part, str) and part.startswith("<") and part.endswith(">"))
    )
    return ".".join(parts) or None


def code_of(problem: dict[str, Any]) -> str:
    """What kind of problem it is."""
    return CODES.get(problem["type"], "invalid_value")


def thread_details(problems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The error's `details` if the request asks for a message thread, else nothing.

    They make Anthropic's client send the conversation again as a whole, without `thread`. Its tool
    runner begins with that field wherever it is used.
    """
    if any(problem["loc"] == ("body", "thread") for problem in problems):
        return {"details": {"error_code": "thread_unsupported_request"}}
    return {}


def message_of(params_and_messages: Sequence[tuple[str | None, str]]) -> str:
    """Everything that is wrong, in one text; the first problems if there are many."""
    told = [
        f"{param}: {message}" if param else message
        for param, message in params_and_messages[:MAX_PROBLEMS]
    ]
    return "; ".join(told)
