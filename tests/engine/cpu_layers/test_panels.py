"""Weights in panels: packed part by part, and joined without a copy."""

import pytest
import torch

from src.engine.cpu_layers import panels as panels_module
from src.engine.cpu_layers.native_linear import (
    NativeInt8Linear,
    NativeLinear,
    join_native_linears,
)
from src.engine.cpu_layers.panels import pack, pack_int8
from src.engine.kernels.loading import load_kernels
from src.engine.kernels.packing import pack_int8_panels, pack_panels, pad_outputs
from tests.support.native import needs_kernels

SHAPES = [(64, 32), (200, 48), (1, 16), (300, 1024)]


@pytest.fixture(params=[1, 2**14, 2**18], autouse=True)
def _chunks(request, monkeypatch):
    monkeypatch.setattr(panels_module, "CHUNK_SIZE", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_parts_give_the_panels_of_the_whole(shape, dtype, is_transposed):
    weight = torch.randn(shape).to(dtype)
    if is_transposed:  # as gpt2's
        weight = weight.T.contiguous().T
    kept = weight.clone()
    panels = pack(weight)
    assert torch.equal(panels.values, pack_panels(weight.float()))
    assert panels.shape == weight.shape
    assert torch.equal(weight, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_give_the_integers_and_scales_of_the_whole(shape, dtype):
    weight = torch.randn(shape).to(dtype)
    kept = weight.clone()
    panels = pack_int8(weight)
    scales = weight.float().abs().amax(dim=1) / 127
    integers = pad_outputs((weight.float() / scales[:, None]).round().to(torch.int8))
    assert torch.equal(panels.values, pack_int8_panels(integers))
    assert torch.equal(panels.scales[: len(scales)], scales)
    assert torch.equal(panels.shifts, integers.sum(dim=1, dtype=torch.int32) * 128)
    assert panels.shape == weight.shape
    assert torch.equal(weight, kept)


def test_a_row_of_zeros_has_a_finite_scale():
    panels = pack_int8(torch.zeros(2, 16))
    assert panels.scales[0] > 0
    assert not panels.values.any()


def test_the_number_of_threads_is_kept():
    num_threads = torch.get_num_threads()
    pack(torch.randn(64, 16))
    assert torch.get_num_threads() == num_threads


@needs_kernels
@torch.inference_mode()
@pytest.mark.parametrize("layer_class", [NativeLinear, NativeInt8Linear])
@pytest.mark.parametrize("sizes", [(128, 64, 64), (64, 37), (48, 64)])
def test_joined_layers_give_the_outputs_side_by_side(layer_class, sizes):
    kernels = load_kernels()
    parts = [layer_class(torch.randn(size, 96), torch.randn(size), kernels) for size in sizes]
    rows = torch.randn(1, 5, 96)
    expected = torch.cat([part(rows) for part in parts], dim=-1)
    joined = join_native_linears(parts, torch.cat([part.bias for part in parts]), kernels)
    torch.testing.assert_close(joined(rows), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(torch.cat([part(rows) for part in parts], dim=-1), expected)
    storages = {one.panels.values.untyped_storage().data_ptr() for one in (joined, *parts)}
    assert (len(storages) == 1) == (sizes[0] % 64 == 0)
