"""Field paths and joined messages of validation problems, for APIs that answer with one error."""

from collections.abc import Sequence

from src.api.family import RequestProblem

MAX_PROBLEMS = 5


def field_path(field: Sequence[str | int], index_format: str) -> str | None:
    """Returns the path of a field, such as `messages.[0].content`; None for the whole body.

    Tags of unions, such as `<text>`, are left out: they are no fields.

    Args:
        field: names and indices.
        index_format: format of an index, such as `[{}]`.
    """
    parts = (
        index_format.format(part) if isinstance(part, int) else part
        for part in field
        if not (isinstance(part, str) and part.startswith("<") and part.endswith(">"))
    )
    return ".".join(parts) or None


def joined_message(problems: Sequence[RequestProblem], index_format: str) -> str:
    """Returns the first problems as one text, each after the path of its field."""
    messages = []
    for problem in problems[:MAX_PROBLEMS]:
        path = field_path(problem.field, index_format)
        messages.append(f"{path}: {problem.message}" if path else problem.message)
    return "; ".join(messages)
