"""Linear layers for a CPU on PyTorch's kernels, with weights packed or quantized once.

A GEMM reads its weight in blocks that suit the processor. `torch.nn.Linear` packs the weight into
such blocks on every call. With few rows, as in a decoding step, this takes longer than the GEMM.
The layers here pack it once; their inputs and outputs are float32.

| kind   | weight              | input               | rounding                     |
|--------|---------------------|---------------------|------------------------------|
| `none` | float32             | float32             | none                         |
| `fp16` | float16             | float32             | weights to 11 bits           |
| `int8` | int8, scale per output | int8, scale per row | weights and input to 8 bits |

With `int8` a row's result does not depend on the other rows. With `none` and `fp16` PyTorch chooses
a kernel by the number of rows and the processor, so the order of additions and the last bits may
differ.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn

from src.engine.config import Quantization

NUM_ROWS = 16
"""Number of rows for which oneDNN chooses the packing of a weight; it serves any other too."""


class FastLinear(nn.Module):
    """Linear layer on a CPU: rows times weight^T, plus bias.

    Args:
        shape: of the weight, (out_features, in_features).
        bias: (out_features,), or None.
    """

    def __init__(self, shape: tuple[int, ...], bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """The weight in float32, (out_features, in_features), unpacked on each access."""
        raise NotImplementedError

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        raise NotImplementedError


CreateLinear = Callable[[torch.Tensor, torch.Tensor | None, Quantization], FastLinear]
"""Creates a layer of a weight, a bias and a kind of rounding.

The weight is (out_features, in_features), float32 or in 16 bits, and is copied.
"""


class PackedLinear(FastLinear):
    """Float32 GEMM of oneDNN, with the weight in its blocked layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, bias)
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
    """FBGEMM's GEMM of a float32 input and a float16 weight, which halves the memory to read."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, bias)
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight.float()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self._packed)
        return output


class Int8Linear(FastLinear):
    """Int8 GEMM of oneDNN, with a scale for each output of the weight and each row of the input.

    Scales are symmetric, by the largest absolute value, as in LLM.int8() (Dettmers et al. 2022,
    arXiv:2208.07339) without its outlier columns. The input is shifted to be unsigned, as the
    processors' instructions need it.

    oneDNN computes only the sums, which are of integers and exact. Scales, shift and bias are
    separate float32 operations: inside oneDNN their order would depend on the kernel that it
    chooses for a number of rows.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, bias)
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        integers = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        self._max_input = _max_input()
        self._scales = scales / self._max_input
        self._shifts = integers.sum(dim=1, dtype=torch.int32) * (self._max_input + 1)
        self._ones = torch.ones(self.out_features)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)

    @property
    def weight(self) -> torch.Tensor:
        identity = torch.eye(self.in_features)
        product: torch.Tensor = self._multiply_normalized(
            identity, identity.amax(dim=-1, keepdim=True)
        )
        return product.T

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        maxima = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True)
        output = self._multiply_normalized(rows, maxima).mul_(maxima)
        return output if self.bias is None else output.add_(self.bias)

    def _multiply_normalized(self, rows: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
        """Returns the product of rows divided by their largest absolute values.

        A row of zeros gives finite garbage, which the caller multiplies by zero.
        """
        scaled = rows.mul(self._max_input / maxima)
        # The cast truncates, so the half rounds to nearest; the rest makes the numbers unsigned.
        integers = scaled.add_(self._max_input + 1.5).to(torch.uint8)
        sums = _int8_gemm(integers, self._packed, self._ones, self._zeros)
        output = sums.sub_(self._shifts).mul_(self._scales)
        return output.view(*rows.shape[:-1], self.out_features)  # oneDNN drops empty dimensions


TORCH_LINEARS: dict[Quantization, type[PackedLinear | Float16Linear | Int8Linear]] = {
    "none": PackedLinear,
    "fp16": Float16Linear,
    "int8": Int8Linear,
}


def create_torch_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, quantization: Quantization
) -> FastLinear:
    """Creates a layer on PyTorch's kernels; see `CreateLinear`."""
    return TORCH_LINEARS[quantization](weight.float(), bias)


def _int8_gemm(
    integers: torch.Tensor, packed: torch.Tensor, ones: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """Multiplies uint8 rows with a packed int8 weight; the sums are returned as float32."""
    output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        integers,
        1.0,  # input scale
        0,  # input zero point
        packed,
        ones,  # weight scales
        zeros,  # weight zero points
        None,  # bias
        1.0,  # output scale
        0,  # output zero point
        torch.float32,
        "none",  # operation on the output
        [],
        "",
    )
    return output


@functools.cache
def _max_input() -> int:
    """Returns the largest quantized input: 127, or 63 if the processor saturates 16-bit sums.

    Without VNNI the instruction adds two 8-bit products in 16 bits. The largest possible products
    show whether oneDNN uses it.
    """
    num_inputs = 64
    weight = torch.full((16, num_inputs), 127, dtype=torch.int8)
    rows = torch.full((1, num_inputs), 255, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    product = _int8_gemm(rows, packed, torch.ones(16), torch.zeros(16, dtype=torch.int32))
    return 127 if torch.equal(product, torch.full((1, 16), 255.0 * 127 * num_inputs)) else 63
