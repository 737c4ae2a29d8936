"""Linear layers for a CPU whose weights are put in order, or rounded, once.

A matrix product reads its weight in blocks that suit the processor. `torch.nn.Linear` puts the
weight into that order anew on every call; with few rows, as in a step that decodes, this takes
longer than the product. All kinds here do it once, and compute with float32 in and out.

| kind   | weight             | a row of input       | what is rounded              |
|--------|--------------------|----------------------|------------------------------|
| `none` | float32            | float32              | nothing                      |
| `fp16` | float16            | float32              | weights, to 11 bits          |
| `int8` | int8, scale an output | 8 bits, scale a row | weights and input, to 8 bits |

No row depends on the rows beside it, so that a seeded request stays the same in any batch.
"""

import functools

import torch
from torch import nn

NUM_ROWS = 16
"""The order of a float32 weight is chosen for so many rows; any number of them can use it."""


class FastLinear(nn.Module):
    """x W^T + b on a CPU, float32 in and out.

    Args:
        weight: (out_features, in_features), float32; it is copied.
        bias: (out_features,), if there is one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the weight in its usual order, in float32, for who wants to look at it."""
        raise NotImplementedError

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        raise NotImplementedError


class PackedLinear(FastLinear):
    """Exact: oneDNN's product, with a weight in oneDNN's own order."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), NUM_ROWS)

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self._packed.to_dense()
        return weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self.bias, "none", [], ""
        )
        return output


class Float16Linear(FastLinear):
    """FBGEMM's product of float32 and a float16 weight: half the memory to read."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight.float()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self._packed)
        return output


class Int8Linear(FastLinear):
    """oneDNN's product of 8-bit integers, each with a scale: a weight's output, an input's row.

    Scales are symmetric, by the largest value (as in LLM.int8(), Dettmers et al. 2022,
    arXiv:2208.07339, but without its separate outliers). The input is shifted to be unsigned, as
    the processors' instructions want it. The sums are of integers, thus exact, and the same in any
    batch.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        integers = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        self._scales = scales
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self._largest = _largest_input()
        self._shift = torch.tensor(self._largest + 1.5)  # the half rounds, as a cast cuts off

    @property
    def weight(self) -> torch.Tensor:
        identity = torch.eye(self.in_features)
        product: torch.Tensor = self._divided(identity, identity.amax(dim=-1, keepdim=True))
        return product.T

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True)
        output = self._divided(rows, largest)
        return output.mul_(largest) if self.bias is None else self.bias.addcmul(output, largest)

    def _divided(self, rows: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """The product for rows divided by their largest values.

        A row of zeros becomes rubbish here, but no infinity, and is multiplied by zero afterwards.
        """
        integers = torch.addcmul(self._shift, rows, self._largest / largest).to(torch.uint8)
        output = _multiply(integers, self._largest, self._packed, self._scales, self._zeros)
        return output.view(*rows.shape[:-1], self.out_features)  # oneDNN drops them if empty


def _multiply(
    integers: torch.Tensor,
    largest: int,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
) -> torch.Tensor:
    """(integers - largest - 1) / largest times the packed integers, times their scales."""
    output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        *(integers, 1 / largest, largest + 1),
        *(packed, scales, zeros),
        *(None, 1.0, 0, torch.float32, "none", [], ""),  # no bias, nothing done to the output
    )
    return output


@functools.cache
def _largest_input() -> int:
    """127, or 63 on a processor that would add two products of eight bits in sixteen.

    Without VNNI such sums are cut off; this finds out with the largest there are.
    """
    num_inputs = 64
    weight = torch.full((16, num_inputs), 127, dtype=torch.int8)
    rows = torch.full((1, num_inputs), 255, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    zeros = torch.zeros(16, dtype=torch.int32)
    product = _multiply(rows, 127, packed, torch.ones(16), zeros)
    return 127 if torch.allclose(product, torch.tensor(127.0 * num_inputs)) else 63
