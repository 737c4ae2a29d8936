"""Layout of weights in the kernels: panels of PANEL outputs, padded to a multiple of BLOCK."""

import torch
from torch.nn.functional import pad

BLOCK = 64
"""Outputs are padded to a multiple of the widest tile of all variants."""

PANEL = 16
"""Outputs of a panel. Vectors of a multiple of this length need no code for a remainder."""


def pad_outputs(outputs: torch.Tensor) -> torch.Tensor:
    """Pads the first dimension with zeros to a multiple of BLOCK."""
    missing = -len(outputs) % BLOCK
    return pad(outputs, [0, 0] * (outputs.dim() - 1) + [0, missing])


def view_panels(padded: torch.Tensor) -> torch.Tensor:
    """Views a padded weight, (num_outputs, num_inputs), as (num_panels, num_inputs, PANEL)."""
    return padded.view(-1, PANEL, padded.shape[1]).transpose(1, 2)


def pack_panels(weight: torch.Tensor) -> torch.Tensor:
    """Packs a weight, (num_outputs, num_inputs), into (num_panels, num_inputs, PANEL)."""
    return view_panels(pad_outputs(weight)).contiguous()


def unpack_panels(panels: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Inverts `pack_panels`."""
    return panels.transpose(1, 2).reshape(-1, panels.shape[1])[:num_outputs]


def pack_int8_panels(weight: torch.Tensor) -> torch.Tensor:
    """Packs padded int8 weights into (num_panels, num_inputs / 4, PANEL, 4)."""
    groups = view_panels(weight.view(torch.int32)).contiguous()  # four inputs move as one number
    return groups.view(torch.int8).view(*groups.shape, 4)


def unpack_int8_panels(panels: torch.Tensor) -> torch.Tensor:
    """Inverts `pack_int8_panels`; the result is still padded."""
    return panels.transpose(1, 2).reshape(-1, 4 * panels.shape[1])
