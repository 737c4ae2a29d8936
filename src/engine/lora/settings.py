"""Settings of LoRA adapters: LORA_MODULES, LORA_DIR, MAX_LORAS and MAX_LORA_RANK."""

import json
from dataclasses import dataclass, field
from pathlib import Path

MAX_LENGTH = 256
"""Characters of the longest name of an adapter."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Bounds on adapters.

    Args:
        modules: folders of the adapters that are loaded at start, by their names.
        folder: LORA_DIR; None refuses requests to load more.
        max_loras: maximum number of adapters in memory.
        max_rank: largest rank of an adapter.
    """

    modules: dict[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    max_loras: int = 16
    max_rank: int = 64


def parse_modules(text: str) -> dict[str, Path]:
    """Returns the folders of LORA_MODULES by the adapters' names.

    Raises:
        ValueError: the text is malformed, or a name is there twice.
    """
    pairs = _read_json(text) if text.lstrip().startswith(("[", "{")) else _read_pairs(text)
    modules: dict[str, Path] = {}
    for name, path in pairs:
        problem = find_problem(name)
        if problem is not None:
            raise ValueError(f"LORA_MODULES: the name {ascii(name)[:80]} {problem}")
        if name in modules:
            raise ValueError(f"LORA_MODULES: the name {name} is there twice")
        modules[name] = Path(path)
    return modules


def find_problem(name: str) -> str | None:
    """Returns what is wrong with an adapter's name; None if nothing is."""
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if len(name) > MAX_LENGTH:
        return f"has {len(name)} characters; {MAX_LENGTH} are allowed"
    if not name.isprintable():
        return "has characters that cannot be printed"
    return None


def _read_pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, sign, path = item.partition("=")
        if not (sign and path.strip()):
            raise ValueError(f"LORA_MODULES: {ascii(item)[:80]} is not of the form name=folder")
        pairs.append((name.strip(), path.strip()))
    return pairs


def _read_json(text: str) -> list[tuple[str, str]]:
    try:
        items = json.loads(text)
    except ValueError as error:
        raise ValueError(f"LORA_MODULES is not valid JSON: {error}") from None
    pairs = []
    for item in items if isinstance(items, list) else [items]:
        values = (item.get("name"), item.get("path")) if isinstance(item, dict) else (None, None)
        if not all(isinstance(value, str) and value for value in values):
            raise ValueError('LORA_MODULES: each item needs a "name" and a "path"')
        pairs.append((str(values[0]), str(values[1])))
    return pairs
