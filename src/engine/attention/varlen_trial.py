"""Trial of `VarlenAttention` at the start: compares small steps with `TorchAttention`.

A GPU or a build of PyTorch with another FlashAttention than expected costs speed this way, and
neither a start nor a correct answer.
"""

import logging
from array import array
from itertools import product

import torch

from src.engine.attention.layer import AttentionLayer, AttentionOptions
from src.engine.attention.packed_attention import Attention
from src.engine.attention.packed_step import Segment, Step
from src.engine.attention.torch_attention import TorchAttention
from src.engine.attention.varlen_attention import BLOCK_SIZE_MULTIPLE, VarlenAttention
from src.engine.kernels.arguments import Projections

logger = logging.getLogger(__name__)

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 4, 2, 64
NUM_BLOCKS = 6
DECODES = [Segment(array("i", [1]), 9, 10), Segment(array("i", [5, 3]), 299, 300)]
STEPS = [DECODES, [*DECODES, Segment(array("i", [4, 0]), 250, 262)]]
"""Decodes alone take another way through the kernel than with a chunk of a prompt."""

WINDOWS = (None, 100)
TOLERANCE = 0.02
"""Largest difference of outputs of size 1; a step of bfloat16 is 0.008 there."""


@torch.inference_mode()
def passes_trial(device: torch.device, dtype: torch.dtype) -> bool:
    """Checks that the kernel runs on a device, and that its results are right.

    The log gives the reason if not.
    """
    for segments, window in product(STEPS, WINDOWS):
        try:
            difference = _difference(segments, window, device, dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            logger.warning("FlashAttention over blocks is not used: it raises %r", error)
            return False
        if not difference <= TOLERANCE:  # NaN is refused too
            logger.warning("FlashAttention over blocks is not used: it differs by %.3g", difference)
            return False
    return True


def _difference(
    segments: list[Segment], window: int | None, device: torch.device, dtype: torch.dtype
) -> float:
    """Returns the largest difference of outputs; NaN if there is a NaN."""
    step = Step.create(segments, BLOCK_SIZE_MULTIPLE, device)
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    num_tokens = len(step.positions)
    heads = [draw(num_tokens, count, HEAD_DIM) for count in (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS)]
    size = (NUM_BLOCKS, BLOCK_SIZE_MULTIPLE, NUM_KV_HEADS, HEAD_DIM)
    options = AttentionOptions(HEAD_DIM**-0.5, window, None, None)
    layer = AttentionLayer(draw(*size), draw(*size), options)

    def run(attend: Attention) -> torch.Tensor:
        output = torch.full_like(heads[0], torch.nan)
        attend(step, layer, Projections(*heads), output)
        return output.float()

    return float((run(VarlenAttention()) - run(TorchAttention())).abs().max())
