"""Layers that are replaced, once a model is loaded, by faster ones of the same meaning.

On a CPU a matrix product reads its weight in blocks that suit the processor. `torch.nn.Linear` puts
the weight into that order anew on every call; with few rows, as in a step that decodes, this takes
longer than the product. `PackedLinear` does it once. gpt2's GELU is seven operations that each go
through memory, and PyTorch has it as one. Nothing is rounded: it is float32 throughout.
"""

import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

NUM_ROWS = 16
"""The order of a weight is chosen for so many rows of input; any number of them can use it."""


class PackedLinear(nn.Module):
    """x W^T + b in float32 on a CPU, by oneDNN and with a weight in oneDNN's own order.

    Args:
        weight: (out_features, in_features); it is copied.
        bias: (out_features,), if there is one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), NUM_ROWS)

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the weight in its usual order, for who wants to look at it."""
        weight: torch.Tensor = self._packed.to_dense()
        return weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self.bias, "none", [], ""
        )
        return output


@torch.inference_mode()
def replace_layers(model: nn.Module) -> None:
    """Replaces layers in place, one after the other.

    What is a class of its own stays, and so do matrices that are not float32 on a CPU. A weight
    that is an embedding's too is in memory twice from now on.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            faster = _faster(layer)
            if faster is not None:
                setattr(parent, name, faster)


def _faster(layer: nn.Module) -> nn.Module | None:
    """A layer to put in this one's place, if there is one."""
    if type(layer) is NewGELUActivation:
        return nn.GELU(approximate="tanh")
    if type(layer) is nn.Linear and _can_be_packed(layer.weight):
        return PackedLinear(layer.weight, layer.bias)
    if type(layer) is Conv1D and _can_be_packed(layer.weight):  # gpt2's: (in, out)
        return PackedLinear(layer.weight.T, layer.bias)
    return None


def _can_be_packed(weight: torch.Tensor) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and weight.device.type == "cpu" and weight.dtype == torch.float32
