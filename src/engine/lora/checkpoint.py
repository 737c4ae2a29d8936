"""Reads PEFT's files of an adapter: adapter_config.json and adapter_model.safetensors."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from src.engine.lora.adapter import LoraAdapter, LoraWeights
from src.engine.lora.state import LoraState
from src.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
TENSOR_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight")

UNSUPPORTED = {
    "use_dora": "DoRA (use_dora)",
    "use_qalora": "QALoRA (use_qalora)",
    "modules_to_save": "whole modules (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",  # nosec B105
    "layer_replication": "replicated layers (layer_replication)",
    "target_parameters": "bare parameters (target_parameters)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "arrow_config": "Arrow routing (arrow_config)",
    "lora_bias": "biases (lora_bias)",
}
"""Entries of adapter_config.json that would change the answers, and are refused if they are set."""

Value = TypeVar("Value", int, float)

Shapes = Mapping[str, tuple[int, int]]
"""(out_features, in_features) of the base model's linear layers, by their names."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Ranks and scalings of an adapter.

    Args:
        rank: of layers that no pattern names.
        alpha: likewise; the scaling is alpha / rank.
        rank_pattern: ranks by patterns of layers' names.
        alpha_pattern: likewise.
        is_rank_stabilized: the scaling is alpha / sqrt(rank) (rsLoRA).
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    is_rank_stabilized: bool

    @property
    def max_rank(self) -> int:
        return max(self.rank, *self.rank_pattern.values(), 0)

    def rank_of(self, layer: str) -> int:
        return _find(self.rank_pattern, layer, self.rank)

    def scaling_of(self, layer: str) -> float:
        """Returns the factor of a layer's update."""
        alpha, rank = _find(self.alpha_pattern, layer, self.alpha), self.rank_of(layer)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def _find(patterns: Mapping[str, Value], layer: str, default: Value) -> Value:
    """Returns the value of the first pattern that matches the end of a layer's name, as PEFT."""
    for pattern, value in patterns.items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", layer):
            return value
    return default


def load_adapter(name: str, folder: Path, max_rank: int, state: LoraState) -> LoraAdapter:
    """Reads an adapter for a model.

    Args:
        name: for `model` of requests.
        folder: of the files.
        max_rank: largest rank that is allowed.
        state: knows the model's layers.

    Raises:
        AdapterError: the files are missing, broken, not supported, or for another model.
    """
    config = read_config(folder, max_rank)
    return LoraAdapter(name, read_weights(folder, config, state.shapes, state.like))


def read_config(folder: Path, max_rank: int) -> LoraConfig:
    """Reads and checks adapter_config.json.

    Raises:
        AdapterError: the file is missing or broken, or asks for something that is not supported.
    """
    entries = _read_json(folder / CONFIG_FILE)
    kind = entries.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{CONFIG_FILE}: peft_type is {_shown(kind)}; only LORA is supported.")
    for name, feature in UNSUPPORTED.items():
        if entries.get(name):
            raise AdapterError(f"{CONFIG_FILE}: {feature} are not supported.")
    if entries.get("bias", "none") != "none":
        raise AdapterError(
            f"{CONFIG_FILE}: bias is {_shown(entries['bias'])}; only none is supported."
        )
    try:
        config = LoraConfig(
            rank=_positive_int(entries["r"], "r"),
            alpha=_number(entries["lora_alpha"], "lora_alpha"),
            rank_pattern={
                _pattern(name): _positive_int(value, f"rank_pattern.{name}")
                for name, value in (entries.get("rank_pattern") or {}).items()
            },
            alpha_pattern={
                _pattern(name): _number(value, f"alpha_pattern.{name}")
                for name, value in (entries.get("alpha_pattern") or {}).items()
            },
            is_rank_stabilized=bool(entries.get("use_rslora")),
        )
    except KeyError as error:
        raise AdapterError(f"{CONFIG_FILE}: {error.args[0]} is missing.") from None
    except AttributeError:
        raise AdapterError(f"{CONFIG_FILE}: a pattern is not an object.") from None
    if config.max_rank > max_rank:
        raise AdapterError(
            f"The adapter's rank is {config.max_rank}; at most {max_rank} is allowed (the server's"
            " MAX_LORA_RANK)."
        )
    return config


def read_weights(
    folder: Path, config: LoraConfig, shapes: Shapes, like: torch.Tensor
) -> dict[str, LoraWeights]:
    """Reads the weights, by the layers' names, onto the device and in the format of `like`.

    Raises:
        AdapterError: the file is missing or broken, or belongs to another base model.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in _read_tensors(folder / WEIGHTS_FILE).items():
        match = TENSOR_NAME.fullmatch(name)
        if match is None:
            raise AdapterError(f"{WEIGHTS_FILE}: the tensor {_shown(name)} is not supported.")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise AdapterError(f"{WEIGHTS_FILE} holds no weights.")
    weights = {}
    for layer, pair in parts.items():
        _check_pair(layer, pair, config.rank_of(layer), shapes)
        a = pair["A"].to(like.device, like.dtype)
        b = (pair["B"].float() * config.scaling_of(layer)).to(like.device, like.dtype)
        if not (a.isfinite().all() and b.isfinite().all()):
            raise AdapterError(f"{WEIGHTS_FILE}: {_shown(layer)} has weights that are not finite.")
        weights[layer] = LoraWeights(a.contiguous(), b.contiguous())
    return weights


def _check_pair(layer: str, pair: Mapping[str, torch.Tensor], rank: int, shapes: Shapes) -> None:
    """Checks that a layer's tensors fit the base model."""
    if layer not in shapes:
        raise AdapterError(
            f"The adapter is for another model: the served one has no linear layer {_shown(layer)}"
            " that can be adapted."
        )
    if pair.keys() != {"A", "B"}:
        raise AdapterError(f"{WEIGHTS_FILE}: {_shown(layer)} lacks lora_A or lora_B.")
    num_outputs, num_inputs = shapes[layer]
    for name, shape in (("A", (rank, num_inputs)), ("B", (num_outputs, rank))):
        if tuple(pair[name].shape) != shape:
            raise AdapterError(
                f"The adapter does not fit the served model: lora_{name} of {_shown(layer)} has the"
                f" shape {list(pair[name].shape)}, and {list(shape)} is needed."
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError:
        raise AdapterError(f"The adapter's folder has no {path.name} that can be read.") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path.name} is larger than {MAX_CONFIG_BYTES} bytes.")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise AdapterError(f"{path.name} is not valid JSON.") from None
    if not isinstance(entries, dict):
        raise AdapterError(f"{path.name} is not a JSON object.")
    return entries


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except OSError:
        raise AdapterError(f"The adapter's folder has no {path.name} that can be read.") from None
    except (SafetensorError, ValueError, KeyError):
        raise AdapterError(f"{path.name} is damaged: it is not a safetensors file.") from None


def _positive_int(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterError(f"{CONFIG_FILE}: {name} is {_shown(value)}, not a positive integer.")
    return value


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise AdapterError(f"{CONFIG_FILE}: {name} is {_shown(value)}, not a number.")
    return value


def _pattern(text: str) -> str:
    """Returns a pattern of layers' names; refuses regular expressions, which may never end."""
    if not re.fullmatch(r"[\w.]+", text):
        raise AdapterError(
            f"{CONFIG_FILE}: the pattern {_shown(text)} is a regular expression; only names of"
            " layers are supported."
        )
    return re.escape(text)


def _shown(value: object) -> str:
    return ascii(value)[:80]
