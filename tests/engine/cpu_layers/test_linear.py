"""Linear layers with packed or quantized weights, against PyTorch's own."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from src.engine.cpu_layers.linear import TORCH_LINEARS
from tests.support.native import BACKENDS, each_backend, needs_kernels

MAX_ERRORS = {"none": 1e-6, "fp16": 1e-3, "int8": 0.03}
"""Largest error of each kind, as a share of the usual norm of such outputs."""

each_kind = pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for name in BACKENDS
        for kind in TORCH_LINEARS
        if name == "pytorch" or kind != "fp16"  # fp16 is PyTorch's in every backend
    ],
)

MEASURE_INT8 = """
import torch
from src.engine.cpu_layers.linear import Int8Linear
torch.manual_seed(0)
weight, rows = torch.rand(53, 768) + 1, torch.rand(9, 768) + 1
expected = rows @ weight.T
print(((Int8Linear(weight, None)(rows) - expected).norm() / expected.norm()).item())
"""


def create_linear(kind: str, name: str, weight: torch.Tensor, bias: torch.Tensor | None = None):
    return BACKENDS[name].create_linear(weight, bias, kind)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("num_inputs", "num_outputs"), [(32, 64), (37, 53), (1, 3), (96, 1), (768, 5000)]
)
@each_kind
def test_output_is_close_to_torch_linear(kind, name, num_inputs, num_outputs, has_bias):
    torch.manual_seed(0)
    plain = nn.Linear(num_inputs, num_outputs, bias=has_bias).requires_grad_(requires_grad=False)
    faster = create_linear(kind, name, plain.weight, plain.bias)
    for num_rows in (0, 1, 2, 7, 16, 65, 300):
        rows = torch.randn(1, num_rows, num_inputs)
        expected, output = plain(rows), faster(rows)
        assert output.shape == expected.shape
        usual_norm = rows.norm() * plain.weight.norm() / num_inputs**0.5
        assert (output - expected).norm() <= MAX_ERRORS[kind] * usual_norm
    assert (faster.weight - plain.weight).norm() <= MAX_ERRORS[kind] * plain.weight.norm()


@each_kind
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, name):
    shapes = [(64, 96)]
    if kind == "int8" or name != "pytorch":  # by construction, for any shape
        shapes += [(37, 53), (3072, 200)]
    for num_inputs, num_outputs in shapes:
        weight, bias = torch.randn(num_outputs, num_inputs), torch.randn(num_outputs)
        faster = create_linear(kind, name, weight, bias)
        rows = torch.randn(128, num_inputs)
        whole = faster(rows)
        for num_rows in (1, 2, 5, 16, 33, 64):
            assert torch.equal(faster(rows[:num_rows]), whole[:num_rows])


@needs_kernels
def test_int8_is_the_same_with_every_variant_of_the_kernels():
    weight, bias, rows = torch.randn(200, 3072), torch.randn(200), torch.randn(40, 3072)
    first, *others = (
        create_linear("int8", name, weight, bias)(rows) for name in BACKENDS if name != "pytorch"
    )
    assert all(torch.equal(first, other) for other in others)


@each_kind
def test_a_transposed_weight_gives_the_same_output(kind, name):
    weight = torch.randn(64, 96)
    rows = torch.randn(5, 64)
    transposed, contiguous = (
        create_linear(kind, name, view) for view in (weight.T, weight.T.contiguous())
    )
    assert torch.equal(transposed(rows), contiguous(rows))


@each_kind
def test_zeros_give_the_bias_and_nan_spreads_over_its_row_alone(kind, name):
    bias = torch.randn(48)
    faster = create_linear(kind, name, torch.zeros(48, 32), bias)
    assert torch.equal(faster(torch.zeros(3, 32)), bias.expand(3, 48))
    faster = create_linear(kind, name, torch.randn(48, 32), bias)
    rows = torch.randn(3, 32)
    for value in (torch.nan, torch.inf, -torch.inf):
        rows[1, 5] = value
        is_finite = faster(rows).isfinite()
        assert is_finite[[0, 2]].all()
        assert not is_finite[1].any()


@each_backend
def test_the_exact_kind_keeps_its_weight(backend):
    weight = torch.randn(37, 53)
    assert torch.equal(backend.create_linear(weight, None, "none").weight, weight)


def test_int8_does_not_saturate_on_processors_that_add_products_in_16_bits():
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", MEASURE_INT8]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < MAX_ERRORS["int8"]
