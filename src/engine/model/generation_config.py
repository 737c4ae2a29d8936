"""Entries for HuggingFace's `generate` in a model's files: sampling defaults, and broken ones.

Token ids and the parameters of SAMPLING_NAMES have an effect here. `do_sample` has none, as in
vLLM: the temperature alone decides whether a request samples. transformers refuses to load a model
with some invalid entries.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from src.engine.model.checkpoint_config import read_json
from src.engine.model.source import REMEDY, one_line
from src.engine.sampling_params import SamplingParams
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

FILE = "generation_config.json"
SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Parameters with defaults in a model's files, by one name here and in transformers."""

MAX_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class SamplingEntry:
    """An entry of a file.

    Args:
        file: name of the file.
        key: name of the entry in it.
        value: any JSON value.
    """

    file: str
    key: str
    value: Any


SamplingEntries = Mapping[str, SamplingEntry]
"""Sampling parameters to their entries."""


def read_sampling_entries(folder: Path) -> SamplingEntries:
    """Returns the entries of generation_config.json that give sampling parameters.

    Raises:
        ModelLoadError: the file is no JSON object.
    """
    raw = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    return {
        name: SamplingEntry(FILE, name, raw[name])
        for name in SAMPLING_NAMES
        if raw.get(name) is not None
    }


def load_generation_config(folder: Path) -> GenerationConfig | None:
    """Returns generation_config.json without sampling parameters; None without the file.

    transformers would warn of some of those parameters, valid ones too, and use none of them here.

    Raises:
        Exception: transformers refuses an entry.
    """
    if not (folder / FILE).is_file():
        return None
    raw = read_json(folder / FILE)
    entries = {name: value for name, value in raw.items() if name not in SAMPLING_NAMES}
    return GenerationConfig(**entries)  # type: ignore[no-untyped-call]


def find_sampling_defaults(entries: SamplingEntries) -> dict[str, float]:
    """Returns the values of sampling parameters; logs invalid ones, and leaves them out."""
    defaults: dict[str, float] = {}
    for name, one in entries.items():
        value = 0 if (name, one.value) == ("top_k", -1) else one.value  # both are all tokens
        problem = _find_problem(name, value)
        if problem is None:
            defaults[name] = value
            continue
        shown = repr(one.value)[:MAX_SHOWN]
        logger.warning("%s has %s=%s: %s; it is ignored", one.file, one.key, shown, problem)
    if defaults:
        shown = ", ".join(f"{name}={value}" for name, value in defaults.items())
        logger.info("the model's sampling defaults: %s (GENERATION_CONFIG=none: not used)", shown)
    return defaults


def _find_problem(name: str, value: Any) -> str | None:
    """Returns the reason why a value is invalid; None if it is valid."""
    kinds = int if name == "top_k" else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        return f"{name} must be {'an integer' if kinds is int else 'a number'}"
    params: dict[str, Any] = {name: value}
    try:
        SamplingParams(**params)
    except ValueError as error:
        return str(error)
    return None


def check_generation_entries(folder: Path) -> None:
    """Refuses invalid entries of generation_config.json and config.json.

    Raises:
        ModelLoadError: names the file and its entries.
    """
    known = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    for path in (folder / FILE, folder / "config.json"):
        raw = read_json(path) if path.is_file() else {}
        entries = {name: value for name, value in raw.items() if name in known}
        error = _find_error(entries)
        if error is not None:
            names = _find_invalid(entries)
            shown = ", ".join(f"{name}={repr(entries[name])[:MAX_SHOWN]}" for name in names)
            raise ModelLoadError(
                f"{path} has {shown}, which transformers refuses ({one_line(error)}). Correct it,"
                f" or remove it: it has no effect here. {REMEDY}"
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
