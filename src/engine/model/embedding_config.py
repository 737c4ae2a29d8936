"""A model's embeddings by its files, in the layout of sentence-transformers.

`modules.json` lists the steps after the model: pooling, and scaling to length 1, which is always
done here. Without it an embedding is the mean of the last hidden states.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig

from src.engine.config import EmbeddingConfig, Pooling
from src.engine.model.checkpoint_config import read_json
from src.engine.model.source import REMEDY
from src.errors import ModelLoadError

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
POOLINGS: Mapping[str, Pooling] = MappingProxyType(
    {"mean": "mean", "lasttoken": "last", "cls": "cls"}
)
SIZES = "matryoshka_dimensions"
FLAG = "pooling_mode_"
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


def find_embedding_config(path: Path, config: PreTrainedConfig, dimensions: str) -> EmbeddingConfig:
    """Reads the files of a model.

    Args:
        path: its folder, or a file, which has no such files beside it.
        config: of the model; may have `matryoshka_dimensions` or `is_matryoshka`, as in vLLM.
        dimensions: EMBEDDING_DIMENSIONS.

    Raises:
        ModelLoadError: a file cannot be read, or its sizes are none.
    """
    pooling, obstacle = _find_pooling(path) if path.is_dir() else ("mean", None)
    named = _read(path / PROMPTS) if path.is_dir() else {}
    prompts, default = named.get("prompts"), named.get("default_prompt_name")
    prompts = prompts if isinstance(prompts, dict) else {}
    texts = {str(name): text for name, text in prompts.items() if isinstance(text, str)}
    if any(texts.values()) and path.is_dir() and _leaves_prompts_out(path, pooling):
        obstacle = obstacle or "they leave the tokens of prompts out of the mean"
    sizes = _sizes(path, named) or _sizes(path, config.to_dict())
    is_any = bool(getattr(config, "is_matryoshka", False)) and not sizes
    if dimensions == "any":
        is_any, sizes = True, frozenset()
    elif dimensions != "auto":
        is_any, sizes = False, frozenset(map(int, dimensions.split(",")))
    return EmbeddingConfig(
        pooling, texts, default if default in texts else None, sizes, is_any, obstacle
    )


def _sizes(path: Path, entries: Mapping[str, Any]) -> frozenset[int]:
    """Returns the sizes to which embeddings may be cut; none if the entries name none."""
    sizes = entries.get(SIZES)
    if sizes is None:
        return frozenset()
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise ModelLoadError(f"{SIZES} in a file of {path} is no list of sizes. {REMEDY}")
    return frozenset(sizes)


def _find_pooling(folder: Path) -> tuple[Pooling, str | None]:
    """Returns the pooling, and what this service does not compute of the modules."""
    kinds = [_kind(module) for module in _read_modules(folder)]
    if unknown := [kind for kind in kinds if kind not in KNOWN_MODULES]:
        return "mean", f"{MODULES} names a module {unknown[0][:80]}"
    if "Pooling" not in kinds:
        return "mean", None
    return _pooling_of(_read_pooling(folder))


def _leaves_prompts_out(folder: Path, pooling: Pooling) -> bool:
    """Tells whether the mean is over the tokens after the prompt alone."""
    return pooling == "mean" and _read_pooling(folder).get("include_prompt") is False


def _read_pooling(folder: Path) -> Mapping[str, Any]:
    """Returns the entries of the first pooling; none if there is no pooling."""
    for module in _read_modules(folder):
        if _kind(module) == "Pooling":
            return _read(folder / str(module.get("path", "")) / "config.json")
    return {}


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelLoadError(f"{path} cannot be read as JSON. {REMEDY}") from error
    if not isinstance(modules, list):
        raise ModelLoadError(f"{path} holds no list. {REMEDY}")
    return [module for module in modules if isinstance(module, dict)]


def _pooling_of(entries: Mapping[str, Any]) -> tuple[Pooling, str | None]:
    flags = [name for name, value in entries.items() if name.startswith(FLAG) and value is True]
    modes = [name.removeprefix(FLAG).removesuffix("s").removesuffix("_token") for name in flags]
    if isinstance(named := entries.get("pooling_mode"), str):  # newer files
        modes = [named]
    if len(modes) == 1 and modes[0] in POOLINGS:
        return POOLINGS[modes[0]], None
    return "mean", f"they ask for the pooling {' and '.join(modes)[:80] or 'of no mode'}"


def _read(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}
