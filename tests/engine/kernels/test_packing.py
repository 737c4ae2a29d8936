"""Packed weights can be unpacked."""

import pytest
import torch

from src.engine.kernels.packing import (
    BLOCK,
    PANEL,
    pack_int8_panels,
    pack_panels,
    pad_outputs,
    unpack_int8_panels,
    unpack_panels,
)


@pytest.mark.parametrize("num_outputs", [1, BLOCK, BLOCK + 1])
def test_unpacks_panels(num_outputs):
    weight = torch.randn(num_outputs, 5)
    panels = pack_panels(weight)
    assert panels.shape == (-(-num_outputs // BLOCK) * BLOCK // PANEL, 5, PANEL)
    assert torch.equal(unpack_panels(panels, num_outputs), weight)


def test_a_panel_has_the_outputs_of_an_input_side_by_side():
    weight = torch.arange(BLOCK * 3).view(BLOCK, 3)
    assert pack_panels(weight)[1, 2].tolist() == weight[PANEL : 2 * PANEL, 2].tolist()


def test_unpacks_int8_panels():
    weight = torch.randint(-127, 128, (BLOCK + 3, 8), dtype=torch.int8)
    padded = pad_outputs(weight)
    panels = pack_int8_panels(padded)
    assert panels.shape == (2 * BLOCK // PANEL, 2, PANEL, 4)
    assert panels[0, 1, 3].tolist() == weight[3, 4:8].tolist()
    assert torch.equal(unpack_int8_panels(panels), padded)
