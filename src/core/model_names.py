"""Names of the served model in requests, answers, metrics and traces.

A folder's path stays on the server: clients see its last part alone, or SERVED_MODEL_NAME.
"""

import os.path
from dataclasses import dataclass
from pathlib import Path

LOCAL_PREFIXES = ("/", ".", "~")
MAX_LENGTH = 256
"""Characters of the longest name in SERVED_MODEL_NAME."""

UNNAMED = "model"
"""Name of a folder without a last part: the root of the file system."""


@dataclass(frozen=True, slots=True)
class ModelNames:
    """Names of the served model.

    Args:
        served: names that `/v1/models` lists. Answers carry the first, as vLLM's do: a client that
            asks for an alias such as `latest` then learns which model answered.
        root: id of the model on the hub, or the first name of another model.
        spelling: MODEL_NAME if it is a hub id, with its revision; else the first name.
    """

    served: tuple[str, ...]
    root: str
    spelling: str

    @property
    def first(self) -> str:
        """The name in answers, metrics and traces."""
        return self.served[0]

    def __contains__(self, name: str) -> bool:
        """Tells whether a request may use the name: a served one, or the id on the hub."""
        return name in self.served or name in (self.root, self.spelling)


def find_model_names(model_name: str, served_model_name: str | None = None) -> ModelNames:
    """Returns the names of a model.

    Args:
        model_name: MODEL_NAME.
        served_model_name: SERVED_MODEL_NAME. None is the last part of the folder's path or of the
            hub id, and of a GGUF file its name without the suffix.
    """
    served = _split(served_model_name) if served_model_name else ()
    if _is_local(model_name):
        served = served or (_last_part(model_name),)
        return ModelNames(served, served[0], served[0])
    root = model_name.partition("@")[0]
    return ModelNames(served or (root.rpartition("/")[2],), root, model_name)


def check_names(value: str | None) -> str | None:
    """Returns SERVED_MODEL_NAME.

    Raises:
        ValueError: a name is empty, too long, not printable or there twice.
    """
    names = _split(value) if value is not None else ()
    for name in names:
        if not name:
            raise ValueError("a name is empty; put one comma between two names")
        if len(name) > MAX_LENGTH:
            raise ValueError(f"a name has {len(name)} characters; {MAX_LENGTH} are allowed")
        if not name.isprintable():
            raise ValueError(f"the name {name!a} has characters that cannot be printed")
        if names.count(name) > 1:
            raise ValueError(f"the name {name} is there {names.count(name)} times")
    return value


def _split(value: str) -> tuple[str, ...]:
    return tuple(name.strip(" ") for name in value.split(","))


def _is_local(model_name: str) -> bool:
    """Tells whether MODEL_NAME is a path: one that exists, or that no hub id can look like."""
    if model_name.startswith(LOCAL_PREFIXES):
        return True
    try:
        return Path(model_name).exists()
    except OSError:  # such as one that is too long
        return True


def _last_part(path: str) -> str:
    """Returns the last part of a path, with `_` for each character that cannot be printed."""
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - never raise
    name = os.path.basename(path)  # noqa: PTH119
    name = name.removesuffix(".gguf")
    return "".join(char if char.isprintable() else "_" for char in name) or UNNAMED
