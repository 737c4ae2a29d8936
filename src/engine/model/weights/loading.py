"""Loads a model's weights, whole and exact, or says why that is not possible.

Weights that are missing or of another shape are refused: transformers would fill in random numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from src.engine.config import EngineConfig
from src.engine.model.checkpoint_config import read_json
from src.engine.model.generation_config import check_generation_entries, load_generation_config
from src.engine.model.source import REMEDY, one_line
from src.engine.model.text_part import find_key_mapping
from src.engine.model.weights.stored import LazyWeight, WeightSource, store_linears
from src.engine.progress import log_phase
from src.errors import ModelLoadError

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

ModelAndInfo = tuple[PreTrainedModel, dict[str, Any]]
"""A model, and the names of weights that are not as its config asks."""


def load_weights(
    folder: Path, model_config: PreTrainedConfig, dtype: torch.dtype, config: EngineConfig
) -> PreTrainedModel:
    """Loads a model from the safetensors files in a folder.

    Raises:
        ModelLoadError: weights are missing or broken, an entry for `generate` is invalid, or a
            package is not installed.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"{folder} has no weights in safetensors form. Other forms are not read, as unpickling"
            " can run foreign code; load the model once where you trust it and write it again with"
            f" save_pretrained. {REMEDY}"
        )
    try:
        if _is_plain(model_config):
            model, info = build_model(model_config, _read_folder(folder), dtype)
            model.generation_config = load_generation_config(folder) or model.generation_config
        else:
            model, info = _from_pretrained(folder, model_config, dtype, config)
    except ImportError as error:
        raise ModelLoadError(
            f"The model in {folder} needs a package that is not installed here"
            f" ({one_line(error)}). Install it, or choose another model. {REMEDY}"
        ) from error
    except Exception as error:  # the library raises whatever its parsers raise
        check_generation_entries(folder)
        raise ModelLoadError(
            f"The weights in {folder} cannot be loaded ({one_line(error)}). Fetch or write the"
            f" files again. {REMEDY}"
        ) from error
    check_names(folder / "config.json", info)
    return model


def build_model(
    model_config: PreTrainedConfig, weights: Mapping[str, WeightSource], dtype: torch.dtype
) -> ModelAndInfo:
    """Creates a model of weights that are read one after the other.

    In float32 the linear layers keep matrices that are stored in 16 bits; see `store_linears`.
    """
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(model_config)]
    with log_phase("loading weights", sum(one.num_bytes for one in weights.values())) as phase:
        # The library's types do not say that the result is a pair.
        model, info = model_class.from_pretrained(
            None,
            config=model_config,
            state_dict={name: LazyWeight(one, phase.add) for name, one in weights.items()},
            dtype=dtype,
            key_mapping=find_key_mapping(model_config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_names` refuses them by name
        )
        if dtype == torch.float32:
            store_linears(model)
    return model, info


def _is_plain(model_config: PreTrainedConfig) -> bool:
    """Checks that transformers has one class for a config, which is of a text model alone."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    is_plain = isinstance(model_class, type) and "text_config" not in model_config.sub_configs
    return is_plain and not getattr(model_config, "auto_map", None)


def _read_folder(folder: Path) -> dict[str, WeightSource]:
    """Returns the weights by their names in the files; files are mapped into memory."""
    paths = [folder / FILE]
    if not paths[0].exists():
        index = read_json(folder / INDEX)["weight_map"]
        paths = [folder / Path(name).name for name in sorted(set(index.values()))]
    tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    return {name: WeightSource(tensor.detach, tensor.nbytes) for name, tensor in tensors.items()}


def _from_pretrained(
    folder: Path, model_config: PreTrainedConfig, dtype: torch.dtype, config: EngineConfig
) -> ModelAndInfo:
    """Loads a model of several parts, or with code of its own, as transformers does."""
    with log_phase("loading weights"):
        result: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=model_config,
            dtype=dtype,
            key_mapping=find_key_mapping(model_config),
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model, info = result
    return model, info


def check_names(path: Path, info: dict[str, Any]) -> None:
    """Refuses weights that the file at `path` asks for and that were not found.

    Args:
        path: of the config, or of the file that holds all of a model.
        info: names of weights, as transformers' `output_loading_info` gives them.

    Raises:
        ModelLoadError: names some of the weights.
    """
    unlike = info["missing_keys"] | {name for name, *_ in info["mismatched_keys"]}
    if unlike:
        some = ", ".join(sorted(unlike)[:3])
        raise ModelLoadError(
            f"{len(unlike)} of the weights that {path} asks for are not there or have another"
            f" shape, {some} among them. They would be random numbers; fetch or write the files"
            f" again. {REMEDY}"
        )
