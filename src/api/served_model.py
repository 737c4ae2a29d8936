"""Check of the model name in a request."""

from src.core.adapters import current_adapter
from src.errors import ModelNotFoundError
from src.inference import InferenceEngine

MAX_SHOWN_LENGTH = 80
MAX_SHOWN_ADAPTERS = 20


def check_model(name: str | None, engine: InferenceEngine) -> None:
    """Refuses a name of no model; sets the adapter of the request. None is the served model.

    The served model's own names come first: an adapter of such a name is never chosen.

    Raises:
        ModelNotFoundError: the model is not served.
    """
    adapter = None
    if name is not None and name not in engine.names:
        adapter = engine.adapters.get(name)
    current_adapter.set(adapter)
    if name is not None and name not in engine.names and adapter is None:
        names = (*engine.names.served, *engine.adapters.names[:MAX_SHOWN_ADAPTERS])
        served = " or ".join(f"`{name}`" for name in names)
        raise ModelNotFoundError(
            f"The model `{_printable(name)}` does not exist here; the served model is {served}.",
            ("model",),
        )


def _printable(name: str) -> str:
    """Returns a client's text for a message: escaped, and at most MAX_SHOWN_LENGTH characters."""
    escaped = repr(name[: MAX_SHOWN_LENGTH + 1])[1:-1]
    return escaped if len(escaped) <= MAX_SHOWN_LENGTH else escaped[:MAX_SHOWN_LENGTH] + "…"
