"""The attention function that HuggingFace's models call, over the KV cache.

transformers lets a model's attention be replaced by a registered function
(`ALL_ATTENTION_FUNCTIONS`). Ours gets the packed queries, keys and values of all sequences of a
step, writes the keys and values into their slots, and lets each sequence attend to its own.
"""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in the pack: it has `end` tokens with these."""

    slot: int
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Step:
    """What the pack of one forward is made of.

    Args:
        decodes: segments of one token; they come first in the pack.
        prefills: all others.
        slots: (num_tokens,) the slot of each packed token.
        positions: (num_tokens,) its position in its sequence.
        masks: made once a step for all layers, by what they depend on.
    """

    decodes: list[Segment]
    prefills: list[Segment]
    slots: torch.Tensor
    positions: torch.Tensor
    masks: dict[tuple[int | str, int | None], torch.Tensor] = field(default_factory=dict)


class PackedAttention:
    """Attention over packed sequences. `step` says what the current forward's pack is made of."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self.step: Step | None = None

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """As transformers calls it.

        Args:
            module: the model's attention layer.
            query: (1, num_heads, num_tokens, head_dim).
            key: (1, num_kv_heads, num_tokens, head_dim).
            value: (1, num_kv_heads, num_tokens, value_dim).
            attention_mask: None, as no mask function is registered under our name.
            scaling: of the scores; None is 1 / sqrt(head_dim).
            sliding_window: a token sees itself and so many minus one before it.
            softcap: bounds the scores: softcap * tanh(scores / softcap).
            s_aux: (num_heads,) attention sinks: a score that takes weight and gives nothing.

        Returns:
            (1, num_tokens, num_heads, value_dim), and None for the weights.
        """
        step, layer = self.step, module.layer_idx
        assert step is not None
        assert attention_mask is None
        assert isinstance(layer, int)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[step.slots, :, step.positions] = key[0].transpose(0, 1)
        values[step.slots, :, step.positions] = value[0].transpose(0, 1)
        how = _How(scaling, sliding_window, softcap, s_aux)
        query = query[0].transpose(0, 1)  # (num_tokens, num_heads, head_dim)
        output = query.new_empty(*query.shape[:2], value.shape[-1])
        at = len(step.decodes)
        if at:
            output[:at] = _decode(step, query[:at], keys, values, how)
        for segment in step.prefills:
            rows = slice(at, at + segment.num_tokens)
            output[rows] = _prefill(step, segment, query[rows], keys, values, how)
            at += segment.num_tokens
        return output[None], None


@dataclass(frozen=True, slots=True)
class _How:
    """What a layer asks of attention."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


def _decode(
    step: Step, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, how: _How
) -> torch.Tensor:
    """All sequences that compute one token, as one padded batch: (num_decodes, heads, dim)."""
    ends = [segment.end for segment in step.decodes]
    first = 0 if how.window is None else max(0, min(ends) - how.window)
    span = slice(first, max(ends))
    mask = step.masks.get(("decode", how.window))
    if mask is None:
        position = step.positions[: len(ends), None]
        mask = _visible(position, span, how.window)[:, None, None]
        step.masks["decode", how.window] = mask
    slots = [segment.slot for segment in step.decodes]
    key, value = _rows(keys, slots)[:, :, span], _rows(values, slots)[:, :, span]
    return _attend(query[:, :, None], key, value, mask, how)[:, :, 0]


def _prefill(
    step: Step,
    segment: Segment,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    how: _How,
) -> torch.Tensor:
    """Several tokens of one sequence: (num_tokens, heads, dim)."""
    first = 0 if how.window is None else max(0, segment.start - how.window + 1)
    span = slice(first, segment.end)
    mask = step.masks.get((segment.slot, how.window))
    if mask is None:
        position = torch.arange(segment.start, segment.end, device=query.device)[:, None]
        mask = _visible(position, span, how.window)[None, None]
        step.masks[segment.slot, how.window] = mask
    key, value = keys[segment.slot, None, :, span], values[segment.slot, None, :, span]
    return _attend(query.transpose(0, 1)[None], key, value, mask, how)[0].transpose(0, 1)


def _visible(position: torch.Tensor, span: slice, window: int | None) -> torch.Tensor:
    """(num_queries, num_keys): which of the span's keys a query at (num_queries, 1) sees."""
    index = torch.arange(span.start, span.stop, device=position.device)[None]
    visible = index <= position
    if window is not None:
        visible &= index > position - window
    return visible


def _rows(tensor: torch.Tensor, slots: list[int]) -> torch.Tensor:
    """The slots' rows: a view where they lie side by side, else a copy."""
    first = slots[0]
    if slots == list(range(first, first + len(slots))):
        return tensor[first : first + len(slots)]
    return tensor[slots]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, how: _How
) -> torch.Tensor:
    """Attention of (batch, heads, tokens, dim) over keys and values of as many heads or fewer."""
    num_groups = query.shape[1] // key.shape[1]
    if how.softcap is None and how.sinks is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=how.scaling, enable_gqa=num_groups > 1
        )
    key, value = key.repeat_interleave(num_groups, 1), value.repeat_interleave(num_groups, 1)
    scores = query @ key.mT * (how.scaling or query.shape[-1] ** -0.5)
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if how.sinks is not None:
        sink = how.sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
