"""Entries for HuggingFace's `generate` in a model's files: names those that cannot be loaded.

Only token ids of them have an effect here, but transformers refuses to load a model with others
that are invalid.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from src.engine.model.checkpoint_config import read_json
from src.engine.model.source import REMEDY, one_line
from src.errors import ModelLoadError

MAX_SHOWN = 60  # characters of a value in a message


def check_generation_entries(folder: Path) -> None:
    """Refuses invalid entries of generation_config.json and config.json.

    Raises:
        ModelLoadError: names the file and its entries.
    """
    known = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    for path in (folder / "generation_config.json", folder / "config.json"):
        raw = read_json(path) if path.is_file() else {}
        entries = {name: value for name, value in raw.items() if name in known}
        error = _find_error(entries)
        if error is not None:
            names = _find_invalid(entries)
            shown = ", ".join(f"{name}={repr(entries[name])[:MAX_SHOWN]}" for name in names)
            raise ModelLoadError(
                f"{path} has {shown}, which transformers refuses ({one_line(error)}). Correct it,"
                " or remove it: here requests say how to sample, and the file's entries for that"
                f" have no effect. {REMEDY}"
            )


def _find_invalid(entries: dict[str, Any]) -> Iterable[str]:
    """Returns entries that are invalid alone, or else those without which the others are valid."""
    alone = [name for name in entries if _find_error({name: entries[name]})]
    return alone or [
        name
        for name in entries
        if not _find_error({other: entries[other] for other in entries if other != name})
    ]


def _find_error(entries: dict[str, Any]) -> Exception | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of entries that are deprecated
            GenerationConfig(**entries)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - the library raises whatever its checks raise
        return error
    return None
