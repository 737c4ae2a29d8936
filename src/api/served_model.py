"""Check of the model name in a request."""

from src.errors import ModelNotFoundError
from src.inference import InferenceEngine

MAX_SHOWN_LENGTH = 80


def check_model(name: str | None, engine: InferenceEngine) -> None:
    """Refuses a name that is none of the served model's; None is accepted.

    Raises:
        ModelNotFoundError: the model is not served.
    """
    if name is not None and name not in engine.names:
        served = " or ".join(f"`{name}`" for name in engine.names.served)
        raise ModelNotFoundError(
            f"The model `{_printable(name)}` does not exist here; the served model is {served}.",
            ("model",),
        )


def _printable(name: str) -> str:
    """Returns a client's text for a message: escaped, and at most MAX_SHOWN_LENGTH characters."""
    escaped = repr(name[: MAX_SHOWN_LENGTH + 1])[1:-1]
    return escaped if len(escaped) <= MAX_SHOWN_LENGTH else escaped[:MAX_SHOWN_LENGTH] + "…"
