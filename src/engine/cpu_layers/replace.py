"""Replaces layers of a loaded model by faster ones of the same meaning.

On a CPU linear layers become those of native_linear.py or linear.py, exact ones unless a
quantization is asked for. gpt2's GELU, seven operations that each read and write memory, becomes
PyTorch's single one.
"""

import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import CreateLinear, FastLinear


@torch.inference_mode()
def replace_layers(
    model: nn.Module, quantization: Quantization, create_linear: CreateLinear
) -> int:
    """Replaces layers in place, one after the other; returns the number of linear ones.

    Subclasses stay, and so do matrices that are not float32 on a CPU. A weight that an embedding
    shares stays there as it is.
    """
    num_linears = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            replacement = _replacement(layer, quantization, create_linear)
            if replacement is not None:
                setattr(parent, name, replacement)
                num_linears += isinstance(replacement, FastLinear)
    return num_linears


def _replacement(
    layer: nn.Module, quantization: Quantization, create_linear: CreateLinear
) -> nn.Module | None:
    """Returns a faster layer; None if there is none for this class."""
    if type(layer) is NewGELUActivation:
        return nn.GELU(approximate="tanh")
    if type(layer) is nn.Linear and can_be_replaced(layer.weight):
        return create_linear(layer.weight, layer.bias, quantization)
    if type(layer) is Conv1D and can_be_replaced(layer.weight):  # gpt2's: (in, out)
        return create_linear(layer.weight.T, layer.bias, quantization)
    return None


def can_be_replaced(weight: torch.Tensor) -> bool:
    """Checks that a weight is float32 on a CPU, and that PyTorch was built with oneDNN."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and weight.device.type == "cpu" and weight.dtype == torch.float32
