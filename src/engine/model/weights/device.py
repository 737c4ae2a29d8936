"""Device and number format of a model."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from src.engine.config import Device, DType
from src.engine.model.weights.stored import restore_linears
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


def move_to_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Moves a model to its device, in evaluation mode.

    Raises:
        ModelLoadError: the device has too little memory.
    """
    if device.type != "cpu":
        restore_linears(model)
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
