"""Linear layers for a CPU whose weights are put in order, or rounded, once.

A matrix product reads its weight in blocks that suit the processor. `torch.nn.Linear` puts the
weight into that order anew on every call; with few rows, as in a step that decodes, this takes
longer than the product. All kinds here do it once, and compute with float32 in and out.

| kind   | weight             | a row of input       | what is rounded              |
|--------|--------------------|----------------------|------------------------------|
| `none` | float32            | float32              | nothing                      |
| `fp16` | float16            | float32              | weights, to 11 bits          |
| `int8` | int8, scale an output | 8 bits, scale a row | weights and input, to 8 bits |

In `int8`, and with our own kernels, no row depends on the rows beside it. PyTorch's `none` and
`fp16` add in the order of the kernel that they choose for a number of rows and a processor, so the
last bits may differ.
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
    the processors' instructions want it.

    oneDNN gives the sums alone, which are of integers and thus exact. What follows are single
    operations of float32, whose results IEEE 754 defines. Were scales, shift and bias oneDNN's,
    their order would depend on the kernel that it chooses for a number of rows (AMX for many).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        integers = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        self._largest = _largest_input()
        self._scales = scales / self._largest
        self._shifts = integers.sum(dim=1, dtype=torch.int32) * (self._largest + 1)
        self._ones = torch.ones(self.out_features)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)

    @property
    def weight(self) -> torch.Tensor:
        identity = torch.eye(self.in_features)
        product: torch.Tensor = self._divided(identity, identity.amax(dim=-1, keepdim=True))
        return product.T

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True)
        output = self._divided(rows, largest).mul_(largest)
        return output if self.bias is None else output.add_(self.bias)

    def _divided(self, rows: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """The product for rows divided by their largest values.

        A row of zeros becomes rubbish here, but no infinity, and is multiplied by zero afterwards.
        """
        scaled = rows.mul(self._largest / largest)
        integers = scaled.add_(self._largest + 1.5).to(torch.uint8)  # the half rounds, a cast cuts
        sums = _multiply(integers, self._packed, self._ones, self._zeros)
        output = sums.sub_(self._shifts).mul_(self._scales)
        return output.view(*rows.shape[:-1], self.out_features)  # oneDNN drops them if empty


def _multiply(
    integers: torch.Tensor, packed: torch.Tensor, ones: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """Sums of unsigned integers times the packed ones, as float32: each is rounded once."""
    output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        *(integers, 1.0, 0),
        *(packed, ones, zeros),
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
    product = _multiply(rows, packed, torch.ones(16), torch.zeros(16, dtype=torch.int32))
    return 127 if torch.equal(product, torch.full((1, 16), 255.0 * 127 * num_inputs)) else 63
