"""The attention function that HuggingFace's models call, over the KV cache.

transformers lets a model's attention be replaced by a registered function
(`ALL_ATTENTION_FUNCTIONS`). Ours gets the packed queries, keys and values of all sequences of a
step, writes the keys and values into their slots, and lets each sequence attend to its own.
"""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.kernels.bindings import CpuKernels
from src.engine.model.kv_cache import KVCache

PADDING = 64
"""A sequence's keys may be padded to twice its length and so many tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in the pack: it has `end` tokens with these."""

    slot: int
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Run:
    """Sequences that decode in slots side by side: one attention over a view of the cache.

    Args:
        rows: of the pack.
        slots: of the cache.
        ends: each sequence's number of tokens.
    """

    rows: slice
    slots: slice
    ends: list[int]


@dataclass(slots=True)
class Step:
    """What the pack of one forward is made of.

    Args:
        decodes: sequences of one token each; they come first in the pack.
        prefills: all others, in the pack's order.
        slots: (num_tokens,) the slot of each packed token.
        positions: (num_tokens,) its position in its sequence.
        runs: of the decodes, found once a step for all layers that need them.
        masks: likewise, by what they depend on.
    """

    decodes: list[Segment]
    prefills: list[Segment]
    slots: torch.Tensor
    positions: torch.Tensor
    runs: list[Run] | None = None
    masks: dict[tuple[int, int | None], torch.Tensor | None] = field(default_factory=dict)

    def find_runs(self) -> list[Run]:
        """The decodes, as runs."""
        if self.runs is None:
            self.runs = find_runs(self.decodes)
        return self.runs


def find_runs(decodes: list[Segment]) -> list[Run]:
    """Groups sequences, in the order of their slots, into runs.

    A copy of the keys would cost more than the attention itself, and so would rows padded to many
    times their length; so a run ends where a slot is missing or the lengths differ too much.
    """
    runs: list[Run] = []
    first = 0
    for index in range(1, len(decodes) + 1):
        if index == len(decodes) or not _continues(decodes[first:index], decodes[index]):
            run = decodes[first:index]
            slots = slice(run[0].slot, run[-1].slot + 1)
            runs.append(Run(slice(first, index), slots, [one.end for one in run]))
            first = index
    return runs


def _continues(run: list[Segment], following: Segment) -> bool:
    ends = [following.end, *(one.end for one in run)]
    return following.slot == run[-1].slot + 1 and max(ends) <= 2 * min(ends) + PADDING


class PackedAttention:
    """Attention over packed sequences. `step` says what the current forward's pack is made of."""

    def __init__(self, cache: KVCache, library: CpuKernels | None = None) -> None:
        self.cache = cache
        self._library = library
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
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        how = _How(scaling, sliding_window, softcap, s_aux)
        # Each becomes (num_tokens, heads, dim).
        query, key, value = (given[0].transpose(0, 1) for given in (query, key, value))
        output = query.new_empty(*query.shape[:2], value.shape[-1])
        at = len(step.decodes)
        rows = slice(at)
        if (
            self._library is not None
            and how.is_plain
            and self._library.can_attend(query, key, value)
        ):
            self._library.decode_attention(
                *(query[rows], key[rows], value[rows], keys, values),
                *(step.slots[rows], step.positions[rows], output[rows]),
                *(how.scaling or query.shape[-1] ** -0.5, how.window or 0),
            )
        else:
            keys[step.slots[rows], step.positions[rows]] = key[rows]
            values[step.slots[rows], step.positions[rows]] = value[rows]
            for run in step.find_runs():
                output[run.rows] = _decode(step, run, query[run.rows], keys, values, how)
        for segment in step.prefills:
            rows = slice(at, at + segment.num_tokens)
            keys[segment.slot, segment.start : segment.end] = key[rows]
            values[segment.slot, segment.start : segment.end] = value[rows]
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

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax and no more."""
        return self.softcap is None and self.sinks is None


def _decode(
    step: Step,
    run: Run,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    how: _How,
) -> torch.Tensor:
    """The sequences of a run, as one padded batch: (num_sequences, heads, dim)."""
    first = 0 if how.window is None else max(0, min(run.ends) - how.window)
    span = slice(first, max(run.ends))
    cached = (run.slots.start, how.window)
    if cached not in step.masks:
        step.masks[cached] = _decode_mask(step.positions[run.rows], run, span, how.window)
    key, value = keys[run.slots, span].transpose(1, 2), values[run.slots, span].transpose(1, 2)
    return _attend(query[:, :, None], key, value, step.masks[cached], how)[:, :, 0]


def _decode_mask(
    positions: torch.Tensor, run: Run, span: slice, window: int | None
) -> torch.Tensor | None:
    """None where all see the whole span."""
    if len(set(run.ends)) == 1 and (window is None or span.stop - span.start <= window):
        return None
    return _visible(positions[:, None], span, window)[:, None, None]


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
    cached = (segment.slot, how.window)
    if cached not in step.masks:
        position = torch.arange(segment.start, segment.end, device=query.device)[:, None]
        step.masks[cached] = _visible(position, span, how.window)[None, None]
    slot = slice(segment.slot, segment.slot + 1)
    key, value = keys[slot, span].transpose(1, 2), values[slot, span].transpose(1, 2)
    mask = step.masks[cached]
    return _attend(query.transpose(0, 1)[None], key, value, mask, how)[0].transpose(0, 1)


def _visible(position: torch.Tensor, span: slice, window: int | None) -> torch.Tensor:
    """(num_queries, num_keys): which of the span's keys a query at (num_queries, 1) sees."""
    index = torch.arange(span.start, span.stop, device=position.device)[None]
    visible = index <= position
    if window is not None:
        visible &= index > position - window
    return visible


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    how: _How,
) -> torch.Tensor:
    """Attention of (batch, heads, tokens, dim) over keys and values of as many heads or fewer."""
    num_groups = query.shape[1] // key.shape[1]
    if how.is_plain:
        if query.shape[2] == 1:  # the heads of a group are as well the queries of one head
            grouped = query.reshape(len(query), key.shape[1], num_groups, -1)
            output = scaled_dot_product_attention(grouped, key, value, mask, scale=how.scaling)
            return output.reshape(*query.shape[:3], -1)
        return scaled_dot_product_attention(
            query, key, value, mask, scale=how.scaling, enable_gqa=num_groups > 1
        )
    key, value = key.repeat_interleave(num_groups, 1), value.repeat_interleave(num_groups, 1)
    scores = query @ key.mT * (how.scaling or query.shape[-1] ** -0.5)
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if how.sinks is not None:
        sink = how.sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
