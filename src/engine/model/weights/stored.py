"""Weights that stay in a checkpoint's 16 bits until they get their final form.

transformers would convert all weights of a 16-bit checkpoint to float32 at once, and a packed or
quantized copy of each would follow. Here the matrices of linear layers stay as they are, mapped
from their file, until something takes them: `StoredLinear` computes with them meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

CHUNK_SIZE = 2**18
"""Numbers of a matrix that are float32 at a time; 1 MiB, which the processor's caches hold."""

HALF_FORMATS = frozenset({torch.bfloat16, torch.float16})
LINEAR_CLASSES = (nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A weight in a file.

    Args:
        read: returns it as it is stored.
        num_bytes: its size in the file.
    """

    read: Callable[[], torch.Tensor]
    num_bytes: int


class LazyWeight:
    """A weight that is read when transformers takes it, as a slice of a safetensors file is.

    A matrix in 16 bits stays in 16 bits where float32 is asked for; see `store_linears`.

    Args:
        source: of the weight.
        on_read: gets its size in the file when it is read.
    """

    def __init__(self, source: WeightSource, on_read: Callable[[int], None]) -> None:
        self._source = source
        self._on_read = on_read

    def __getitem__(self, _: object) -> "LazyWeight":
        return self

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Reads the weight; transformers calls this with the parameter's device and format."""
        weight = self._source.read()
        self._on_read(self._source.num_bytes)
        if dtype == torch.float32 and weight.dim() == 2 and weight.dtype in HALF_FORMATS:
            return weight
        return weight.to(device=device, dtype=dtype)


class StoredLinear(nn.Module):
    """Linear layer that converts its weight from 16 bits to float32 on each call, by parts.

    Args:
        stored: (out_features, in_features), in 16 bits; a buffer, as a model has the number format
            of its first parameter.
        bias: (out_features,) in float32, or None.
    """

    def __init__(self, stored: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.stored: torch.Tensor
        self.register_buffer("stored", stored)
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """The weight in float32, (out_features, in_features), converted on each access."""
        return self.stored.float()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        num_rows = max(1, CHUNK_SIZE // self.in_features)
        parts = [linear(rows, part.float()) for part in torch.split(self.stored, num_rows)]
        output = torch.cat(parts, dim=-1)
        return output if self.bias is None else output.add_(self.bias)

    def to_linear(self) -> nn.Linear:
        """Returns PyTorch's layer with the weight in float32."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight.contiguous(), requires_grad=False)
        layer.bias = self.bias  # type: ignore[assignment]
        return layer


@torch.no_grad()
def store_linears(model: PreTrainedModel) -> None:
    """Makes linear layers with 16-bit weights `StoredLinear`, and all other weights float32.

    Args:
        model: loaded in float32 from `LazyWeight`s.
    """
    for module in model.modules():
        if type(module) not in LINEAR_CLASSES:
            for weight in module.parameters(recurse=False):
                if weight.dtype in HALF_FORMATS:
                    weight.data = weight.data.float()  # in place, for the layers that share it
    for parent in list(model.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, layer in children:
            if type(layer) in LINEAR_CLASSES and layer.weight.dtype in HALF_FORMATS:
                stored = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
                setattr(parent, name, StoredLinear(stored.detach(), layer.bias))


@torch.no_grad()
def restore_linears(model: nn.Module) -> None:
    """Makes each `StoredLinear` PyTorch's own layer in float32."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, StoredLinear):
                setattr(parent, name, layer.to_linear())
