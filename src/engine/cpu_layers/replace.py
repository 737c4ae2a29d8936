"""Layers that are replaced, once a model is loaded, by faster ones.

On a CPU linear layers become those of `native/linears.py` or, where their kernels are not to be
had, of `linears.py`: exact ones unless a quantization is asked for. gpt2's GELU, seven operations
that each go through memory, becomes PyTorch's single one.
"""

import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import FastLinear, Float16Linear, Int8Linear, PackedLinear
from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.kernels.bindings import PANEL, CpuKernels

LINEARS: dict[Quantization, type[FastLinear]] = {
    "none": PackedLinear,
    "fp16": Float16Linear,
    "int8": Int8Linear,
}


@torch.inference_mode()
def replace_layers(
    model: nn.Module, quantization: Quantization = "none", library: CpuKernels | None = None
) -> int:
    """Replaces layers in place, one after the other; returns how many linear ones.

    What is a class of its own stays, and so do matrices that are not float32 on a CPU. A weight
    that is an embedding's too stays there as it is.
    """
    num_linears = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            faster = _faster(layer, quantization, library)
            if faster is not None:
                setattr(parent, name, faster)
                num_linears += isinstance(faster, FastLinear)
    return num_linears


def _faster(
    layer: nn.Module, quantization: Quantization, library: CpuKernels | None
) -> nn.Module | None:
    """A layer to put in this one's place, if there is one."""
    if type(layer) is NewGELUActivation:
        return nn.GELU(approximate="tanh")
    if type(layer) is nn.Linear and can_be_replaced(layer.weight):
        return create_linear(layer.weight, layer.bias, quantization, library)
    if type(layer) is Conv1D and can_be_replaced(layer.weight):  # gpt2's: (in, out)
        return create_linear(layer.weight.T, layer.bias, quantization, library)
    return None


def create_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    quantization: Quantization,
    library: CpuKernels | None = None,
) -> FastLinear:
    """The fastest layer of a kind for this weight, (out_features, in_features)."""
    if library is None:
        return LINEARS[quantization](weight, bias)
    if quantization == "none":
        return NativeLinear(weight, bias, library)
    if quantization == "int8" and weight.shape[1] % PANEL == 0:
        return NativeInt8Linear(weight, bias, library)
    return LINEARS[quantization](weight, bias)


def can_be_replaced(weight: torch.Tensor) -> bool:
    """Whether it is float32 on a CPU, and PyTorch has oneDNN."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and weight.device.type == "cpu" and weight.dtype == torch.float32
