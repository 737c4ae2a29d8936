"""Attention over blocks by PyTorch: gathers keys and values, then calls its own attention."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.attention.layer import AttentionLayer, AttentionOptions
from src.engine.attention.packed_step import Run, Segment, Step
from src.engine.kernels.arguments import Projections


class TorchAttention:
    """PyTorch's attention, on any device and with any options."""

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        store(step, layer, tokens)
        for run in step.find_runs():
            output[run.rows] = _attend_run(step, run, layer, tokens.query[run.rows])
        start = step.num_decodes
        for number in range(step.num_decodes, len(step.segments)):
            segment = step.segments[number]
            rows = slice(start, start + segment.num_tokens)
            output[rows] = _attend_segment(step, number, segment, layer, tokens.query[rows])
            start = rows.stop


def store(step: Step, layer: AttentionLayer, tokens: Projections) -> None:
    """Writes the step's keys and values into their blocks."""
    layer.keys.flatten(0, 1).index_put_((step.places,), tokens.key.to(layer.keys.dtype))
    layer.values.flatten(0, 1).index_put_((step.places,), tokens.value.to(layer.values.dtype))


def _attend_run(step: Step, run: Run, layer: AttentionLayer, query: torch.Tensor) -> torch.Tensor:
    """Attends with the queries of a run: (num_sequences, num_heads, value_dim)."""
    window = layer.options.window
    first = 0 if window is None else max(0, min(run.ends) - window)
    span = slice(first, max(run.ends))
    mask_key = (run.rows.start, window)
    if mask_key not in step.masks:
        step.masks[mask_key] = _run_mask(step.positions[run.rows], run, span, window)
    key, value = _gather(layer, step.block_tables[run.rows], span, query.dtype)
    return attend(query[:, :, None], key, value, step.masks[mask_key], layer.options)[:, :, 0]


def _run_mask(
    positions: torch.Tensor, run: Run, span: slice, window: int | None
) -> torch.Tensor | None:
    """Returns the mask of a run; None if all sequences see the whole span."""
    if len(set(run.ends)) == 1 and (window is None or span.stop - span.start <= window):
        return None
    return causal_mask(positions[:, None], span, window)[:, None, None]


def _attend_segment(
    step: Step, number: int, segment: Segment, layer: AttentionLayer, query: torch.Tensor
) -> torch.Tensor:
    """Attends with tokens of one sequence: (num_tokens, num_heads, value_dim)."""
    window, query = layer.options.window, query.transpose(0, 1)[None]
    first = 0 if window is None else max(0, segment.start - window + 1)
    span = slice(first, segment.end)
    key, value = _gather(layer, step.block_tables[number : number + 1], span, query.dtype)
    if not segment.start and layer.options.is_plain and (window is None or segment.end <= window):
        return attend(query, key, value, None, layer.options, is_causal=True)[0].transpose(0, 1)
    mask_key = (step.num_decodes + number, window)
    if mask_key not in step.masks:
        positions = torch.arange(segment.start, segment.end, device=query.device)[:, None]
        step.masks[mask_key] = causal_mask(positions, span, window)[None, None]
    return attend(query, key, value, step.masks[mask_key], layer.options)[0].transpose(0, 1)


def _gather(
    layer: AttentionLayer, block_tables: torch.Tensor, span: slice, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies the keys and values of a span: (num_sequences, num_kv_heads, num_tokens, dim)."""
    size = layer.keys.shape[1]
    first = span.start // size
    tables = block_tables[:, first : -(-span.stop // size)]
    places = slice(span.start - first * size, span.stop - first * size)
    key, value = (
        cache[tables].flatten(1, 2)[:, places].transpose(1, 2).to(dtype)
        for cache in (layer.keys, layer.values)
    )
    return key, value


def causal_mask(positions: torch.Tensor, span: slice, window: int | None) -> torch.Tensor:
    """Returns the keys of a span that queries at `positions`, (num_queries, 1), see.

    The result is (num_queries, num_keys), bool.
    """
    index = torch.arange(span.start, span.stop, device=positions.device)[None]
    mask = index <= positions
    if window is not None:
        mask &= index > positions - window
    return mask


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """Computes softmax attention, with groups of query heads that share a key head.

    Args:
        query: (batch, num_heads, num_queries, key_dim).
        key: (batch, num_kv_heads, num_keys, key_dim).
        value: (batch, num_kv_heads, num_keys, value_dim).
        mask: True where a query sees a key; broadcast to (batch, num_heads, num_queries, num_keys).
        options: of the layer; the window is in the mask.
        is_causal: each query sees the keys up to its own; plain options only, without a mask.

    Returns:
        (batch, num_heads, num_queries, value_dim).
    """
    group_size = query.shape[1] // key.shape[1]
    if not options.is_plain:
        key, value = key.repeat_interleave(group_size, 1), value.repeat_interleave(group_size, 1)
        return _attend_eagerly(query, key, value, mask, options)
    if query.shape[2] == 1:  # with one token, the heads of a group can be queries of one head
        grouped = query.reshape(len(query), key.shape[1], group_size, -1)
        output = scaled_dot_product_attention(grouped, key, value, mask, scale=options.scaling)
        return output.reshape(*query.shape[:3], -1)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        is_causal=is_causal,
        scale=options.scaling,
        enable_gqa=group_size > 1,
    )


def _attend_eagerly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
) -> torch.Tensor:
    """Computes attention with softcap and sinks; there are as many key heads as query heads."""
    scores = query @ key.mT * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if options.sinks is not None:
        sinks = options.sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
