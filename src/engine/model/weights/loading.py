"""Loads a model's weights onto a device, whole and exact, or says why that is not possible.

Weights that are missing or of another shape are refused: transformers would fill in random numbers.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from src.engine.config import Device, DType, EngineConfig
from src.engine.model.generation_config import check_generation_entries
from src.engine.model.source import REMEDY, one_line
from src.errors import ModelLoadError


def choose_device(device: Device) -> torch.device:
    """Returns the device of DEVICE; `auto` is CUDA if there is one.

    Raises:
        ModelLoadError: CUDA was asked for, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(
            "DEVICE=cuda was asked for, and torch sees no CUDA device here. Use DEVICE=auto or cpu,"
            " or install a CUDA build of torch and its driver."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_dtype(dtype: DType, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """Returns the number format of DTYPE; for `auto` the best one of device and checkpoint."""
    if dtype != "auto":
        return {
            "float32": torch.float32,
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
        }[dtype]
    if device.type == "cpu":
        return torch.float32
    if config.dtype == torch.bfloat16 and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


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


def _from_pretrained(
    folder: Path, model_config: PreTrainedConfig, dtype: torch.dtype, config: EngineConfig
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Returns the model, and the names of weights that are not as its config asks."""
    # The library's types do not say that the result is a pair.
    result: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=model_config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=config.trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `check_names` refuses them by name
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


def move_to_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Moves a model to its device, in evaluation mode.

    Raises:
        ModelLoadError: the device has too little memory.
    """
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError as error:
        num_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        raise ModelLoadError(
            f"The model's weights take {num_bytes / 2**30:.1f} GiB, which are not free on {device}."
            " Choose a smaller model, a smaller DTYPE, or DEVICE=cpu."
        ) from error
    model.eval()  # type: ignore[no-untyped-call]
    return model
