"""Replaces layers of a loaded model by faster ones of the same meaning.

On a CPU linear layers become those of native_linear.py or linear.py, exact ones unless a
quantization is asked for. gpt2's GELU, seven operations that each read and write memory, becomes
PyTorch's single one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import CreateLinear
from src.engine.model.weights.stored import StoredLinear


@torch.inference_mode()
def replace_layers(
    model: nn.Module,
    quantization: Quantization,
    create_linear: CreateLinear,
    on_replace: Callable[[int], None] = lambda num_bytes: None,
) -> int:
    """Replaces layers in place, one after the other; returns the number of linear ones.

    `on_replace` gets the size of each replaced weight.

    Subclasses stay, and so do matrices that are not float32 on a CPU. A weight that an embedding
    shares stays there as it is.
    """
    num_linears = 0
    for parent in list(model.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, layer in children:
            weight = _find_weight(layer)
            if weight is not None:
                setattr(parent, name, create_linear(weight, layer.bias, quantization))
                num_linears += 1
                on_replace(weight.nbytes)
            elif type(layer) is NewGELUActivation:
                setattr(parent, name, nn.GELU(approximate="tanh"))
            elif isinstance(layer, StoredLinear):
                setattr(parent, name, layer.to_linear())
    return num_linears


def _find_weight(layer: Any) -> torch.Tensor | None:
    """Returns the weight of a linear layer, (out, in); None if the layer cannot be replaced."""
    if isinstance(layer, StoredLinear):
        return layer.stored if has_onednn() else None
    if type(layer) is nn.Linear and can_be_replaced(layer.weight):
        return layer.weight
    if type(layer) is Conv1D and can_be_replaced(layer.weight):  # gpt2's: (in, out)
        return layer.weight.T
    return None


def can_be_replaced(weight: torch.Tensor) -> bool:
    """Checks that a weight is float32 on a CPU, and that PyTorch was built with oneDNN."""
    return has_onednn() and weight.device.type == "cpu" and weight.dtype == torch.float32


def has_onednn() -> bool:
    """Checks that PyTorch was built with oneDNN."""
    is_available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_available
