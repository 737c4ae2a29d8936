"""Attention of decoding sequences, by PyTorch or by our own CPU kernels."""

import torch

from src.engine.kernels.arguments import CachePlaces, Projections
from src.engine.kernels.bindings import CpuKernels
from src.engine.model.attention import AttentionLayer, attend, causal_mask
from src.engine.model.packed_step import Run, Step


class TorchAttention:
    """PyTorch's attention: one padded batch for each run of sequences."""

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        rows = slice(len(output))
        layer.keys[step.slots[rows], step.positions[rows]] = tokens.key
        layer.values[step.slots[rows], step.positions[rows]] = tokens.value
        for run in step.find_runs():
            output[run.rows] = _attend_run(step, run, layer, tokens.query[run.rows])


class NativeAttention:
    """Our own kernels' attention, without padding; PyTorch's for options that they do not have."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels
        self._fallback = TorchAttention()

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        options = layer.options
        if not options.is_plain or not self._kernels.can_attend(tokens):
            self._fallback(step, layer, tokens, output)
            return
        data = self._kernels.attention_data(
            output.shape[1], layer.keys, layer.values, options.scaling, options.window
        )
        rows = slice(len(output))
        places = CachePlaces(step.slots[rows], step.positions[rows])
        self._kernels.decode_attention(data, tokens, places, output)


def _attend_run(step: Step, run: Run, layer: AttentionLayer, query: torch.Tensor) -> torch.Tensor:
    """Attends with the queries of a run: (num_sequences, num_heads, value_dim)."""
    window = layer.options.window
    first = 0 if window is None else max(0, min(run.ends) - window)
    span = slice(first, max(run.ends))
    mask_key = (run.slots.start, window)
    if mask_key not in step.masks:
        step.masks[mask_key] = _run_mask(step.positions[run.rows], run, span, window)
    key, value = (cache[run.slots, span].transpose(1, 2) for cache in (layer.keys, layer.values))
    return attend(query[:, :, None], key, value, step.masks[mask_key], layer.options)[:, :, 0]


def _run_mask(
    positions: torch.Tensor, run: Run, span: slice, window: int | None
) -> torch.Tensor | None:
    """Returns the mask of a run; None if all sequences see the whole span."""
    if len(set(run.ends)) == 1 and (window is None or span.stop - span.start <= window):
        return None
    return causal_mask(positions[:, None], span, window)[:, None, None]
