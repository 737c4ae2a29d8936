"""Linear layers with ordered or rounded weights, against PyTorch's own."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from src.engine.cpu_layers.replace import LINEARS, create_linear
from tests.support.native import LIBRARIES

ERRORS = {"none": 1e-6, "fp16": 1e-3, "int8": 0.03}
"""What rounding may cost, as a share of the norm that outputs of such inputs usually have."""

KINDS = [
    *((kind, None) for kind in LINEARS),
    *((kind, library) for library in LIBRARIES for kind in ("none", "int8")),
]
"""Of quantization, each by PyTorch's kernels and by every variant of our own."""

MEASURE_INT8 = """
import torch
from src.engine.cpu_layers.linear import Int8Linear
torch.manual_seed(0)
weight, rows = torch.rand(53, 768) + 1, torch.rand(9, 768) + 1
expected = rows @ weight.T
print(((Int8Linear(weight, None)(rows) - expected).norm() / expected.norm()).item())
"""


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("num_in", "num_out"), [(32, 64), (37, 53), (1, 3), (96, 1), (768, 5000)])
@pytest.mark.parametrize(("kind", "library"), KINDS)
def test_gives_what_the_plain_one_gives(kind, library, num_in, num_out, has_bias):
    torch.manual_seed(0)
    plain = nn.Linear(num_in, num_out, bias=has_bias).requires_grad_(requires_grad=False)
    faster = create_linear(plain.weight, plain.bias, kind, library)
    for num_rows in (0, 1, 2, 7, 16, 65, 300):
        rows = torch.randn(1, num_rows, num_in)
        expected, found = plain(rows), faster(rows)
        assert found.shape == expected.shape
        usual = rows.norm() * plain.weight.norm() / num_in**0.5
        assert (found - expected).norm() <= ERRORS[kind] * usual
    assert (faster.weight - plain.weight).norm() <= ERRORS[kind] * plain.weight.norm()


@pytest.mark.parametrize(("kind", "library"), KINDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, library):
    shapes = [(64, 96)]
    if kind == "int8" or library is not None:  # by construction, thus for any shape
        shapes += [(37, 53), (3072, 200)]
    for num_in, num_out in shapes:
        faster = create_linear(torch.randn(num_out, num_in), torch.randn(num_out), kind, library)
        rows = torch.randn(128, num_in)
        whole = faster(rows)
        for num_rows in (1, 2, 5, 16, 33, 64):
            assert torch.equal(faster(rows[:num_rows]), whole[:num_rows])


@pytest.mark.skipif(not LIBRARIES, reason="no kernels of our own")
def test_int8_is_the_same_with_every_variant_of_the_kernels():
    weight, bias, rows = torch.randn(200, 3072), torch.randn(200), torch.randn(40, 3072)
    first, *others = (create_linear(weight, bias, "int8", one)(rows) for one in LIBRARIES)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("kind", "library"), KINDS)
def test_a_weight_that_lies_the_other_way_round_is_the_same_weight(kind, library):
    weight = torch.randn(64, 96)
    rows = torch.randn(5, 64)
    turned, straight = (
        create_linear(given, None, kind, library) for given in (weight.T, weight.T.contiguous())
    )
    assert torch.equal(turned(rows), straight(rows))


@pytest.mark.parametrize(("kind", "library"), KINDS)
def test_zeros_give_the_bias_and_what_is_no_number_stays_none(kind, library):
    bias = torch.randn(48)
    faster = create_linear(torch.zeros(48, 32), bias, kind, library)
    assert torch.equal(faster(torch.zeros(3, 32)), bias.expand(3, 48))
    faster = create_linear(torch.randn(48, 32), bias, kind, library)
    rows = torch.randn(3, 32)
    for value in (torch.nan, torch.inf, -torch.inf):
        rows[1, 5] = value
        finite = faster(rows).isfinite()
        assert finite[[0, 2]].all()
        assert not finite[1].any()


@pytest.mark.parametrize("library", [None, *LIBRARIES])
def test_the_exact_kind_keeps_its_weight(library):
    weight = torch.randn(37, 53)
    assert torch.equal(create_linear(weight, None, "none", library).weight, weight)


def test_int8_is_right_on_processors_that_add_products_in_sixteen_bits():
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", MEASURE_INT8]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < ERRORS["int8"]
