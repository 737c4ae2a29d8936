"""Names of GGUF files: whole models, and models that are split into several files."""

import re
from collections.abc import Iterable

SUFFIX = ".gguf"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
"""A file of a split model, as `llama-gguf-split` names it."""


def is_gguf(name: str) -> bool:
    """Checks a file's name for the suffix of GGUF files."""
    return name.lower().endswith(SUFFIX)


def find_part_names(name: str) -> list[str]:
    """Returns the names of all files of the model that one of its files belongs to."""
    match = PART.fullmatch(name)
    if match is None:
        return [name]
    stem, count = match["stem"], match["count"]
    return [f"{stem}-{number:05}-of-{count}{SUFFIX}" for number in range(1, int(count) + 1)]


def find_models(names: Iterable[str]) -> list[str]:
    """Returns the GGUF files among some names, of a split model its first file alone."""
    return sorted({find_part_names(name)[0] for name in names if is_gguf(name)})
