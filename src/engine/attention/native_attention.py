"""Attention over blocks by our own CPU kernels, without gathering and padding."""

import torch

from src.engine.attention.layer import AttentionLayer
from src.engine.attention.packed_step import Step
from src.engine.attention.torch_attention import TorchAttention
from src.engine.kernels.arguments import CachePlaces, Projections
from src.engine.kernels.bindings import CpuKernels


class NativeAttention:
    """Our own kernels' attention; PyTorch's for sizes of heads that they do not have."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels
        self._fallback = TorchAttention()

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        if not self._kernels.can_attend(tokens):
            self._fallback(step, layer, tokens, output)
            return
        options = layer.options
        data = self._kernels.attention_data(
            output.shape[1],
            layer.keys,
            layer.values,
            options.scaling,
            options.window,
            options.softcap,
            options.sinks,
        )
        rows = slice(step.num_decodes)
        places = CachePlaces(step.block_tables[rows], step.positions[rows])
        self._kernels.decode_attention(data, tokens[rows], places, output[rows])
        start = step.num_decodes
        for number in range(step.num_decodes, len(step.segments)):
            segment = step.segments[number]
            rows = slice(start, start + segment.num_tokens)
            self._kernels.prefill_attention(
                data, tokens[rows], step.block_tables[number], segment.start, output[rows]
            )
            start = rows.stop
