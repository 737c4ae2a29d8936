"""Random steps for tests of attention, and FlashAttention's contract in plain PyTorch."""

from array import array
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from src.engine.attention.layer import AttentionLayer, AttentionOptions
from src.engine.attention.packed_attention import Attention
from src.engine.attention.packed_step import Segment, Step
from src.engine.kernels.arguments import Projections

SCALING = 0.2


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a layer."""

    num_heads: int
    num_kv_heads: int
    dim: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A step of one layer, with the cache before it.

    Args:
        step: the packed tokens.
        options: of the layer.
        tokens: of the step.
        keys: of the cache; NaN in each place that holds no earlier token of a sequence.
        values: likewise.
    """

    step: Step
    options: AttentionOptions
    tokens: Projections
    keys: torch.Tensor
    values: torch.Tensor

    def run(
        self, attend: Attention, *, with_nan: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the output, and the cache's keys and values after the step.

        Args:
            attend: implementation.
            with_nan: whether unused places of the cache are NaN; zeros otherwise.
        """
        keys, values = (
            tensor.clone() if with_nan else tensor.nan_to_num()
            for tensor in (self.keys, self.values)
        )
        output = torch.full_like(self.tokens.query, torch.nan)
        attend(self.step, AttentionLayer(keys, values, self.options), self.tokens, output)
        return output, keys.nan_to_num(), values.nan_to_num()

    def only(self, number: int) -> "Scene":
        """Returns the step of one of its segments alone."""
        segments = self.step.segments
        first = sum(one.num_tokens for one in segments[:number])
        rows = slice(first, first + segments[number].num_tokens)
        step = Step.create([segments[number]], self.keys.shape[1], self.keys.device)
        return replace(self, step=step, tokens=self.tokens[rows])


def create_segments(numbers: np.random.Generator, block_size: int) -> tuple[list[Segment], int]:
    """Returns decodes by length, then chunks and drafts, and the number of blocks of the cache.

    Blocks are dealt at random, and tables have up to two blocks more than needed.
    """
    ends = sorted(numbers.integers(1, 6 * block_size, numbers.integers(0, 5)).tolist())
    spans = [(end - 1, end) for end in ends]
    for size in numbers.integers(2, 3 * block_size, numbers.integers(not spans, 4)).tolist():
        start = int(numbers.choice([0, numbers.integers(1, 4 * block_size)]))
        spans.append((start, start + size))
    for _ in range(numbers.integers(0, 3)):
        start = int(numbers.integers(1, 4 * block_size))
        spans.append((start, start + int(numbers.integers(2, 6))))
    counts = [-(-end // block_size) + int(numbers.integers(0, 3)) for _, end in spans]
    num_blocks = sum(counts) + 2
    blocks = iter(numbers.permutation(num_blocks).tolist())
    tables = [array("i", [next(blocks) for _ in range(count)]) for count in counts]
    segments = [Segment(table, *span) for table, span in zip(tables, spans, strict=True)]
    return segments, num_blocks


def create_scene(
    seed: int,
    heads: Heads,
    window: int | None = None,
    block_size: int = 4,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Scene:
    """Creates a random step; heads of a token are views of one product, as a model's are."""
    numbers = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    segments, num_blocks = create_segments(numbers, block_size)
    step = Step.create(segments, block_size, torch.device(device))
    shape = (num_blocks, block_size, heads.num_kv_heads, heads.dim)
    caches = [torch.randn(shape, generator=generator) for _ in range(2)]
    is_unused = torch.ones(num_blocks, block_size, dtype=torch.bool)
    for one in segments:
        table, positions = torch.tensor(one.block_table), torch.arange(one.start)
        is_unused[table[positions // block_size], positions % block_size] = False
    for cache in caches:
        cache[is_unused] = torch.nan
    widths = [count * heads.dim for count in (heads.num_heads, *2 * [heads.num_kv_heads])]
    num_tokens = sum(one.num_tokens for one in segments)
    product = torch.randn(num_tokens, sum(widths), generator=generator).to(device, dtype)
    tokens = Projections(*(part.unflatten(1, (-1, heads.dim)) for part in product.split(widths, 1)))
    options = AttentionOptions(SCALING, window, softcap=None, sinks=None)
    return Scene(step, options, tokens, *(cache.to(device, dtype) for cache in caches))


def attend_by_contract(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """Does what `torch.nn.attention.varlen.varlen_attn_out` documents, and checks its arguments."""
    for tensor in (cu_seq_q, cu_seq_k, seqused_k, block_table):
        assert tensor.dtype == torch.int32
        assert tensor.device == query.device
        assert tensor.is_contiguous()
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1 == len(block_table) + 1
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_q.diff().max() == max_q
    assert torch.equal(cu_seq_k.diff(), seqused_k)
    assert seqused_k.max() == max_k <= block_table.shape[1] * key.shape[1]
    assert enable_gqa == (query.shape[1] != key.shape[2])
    assert num_splits == 1
    group_size = query.shape[1] // key.shape[2]
    for number, (start, end) in enumerate(pairwise(cu_seq_q.tolist())):
        num_keys = int(seqused_k[number])
        keys, values = (
            cache[block_table[number].long()]
            .flatten(0, 1)[:num_keys]
            .repeat_interleave(group_size, 1)
            for cache in (key, value)
        )
        scores = torch.einsum("qhd,khd->hqk", query[start:end], keys) * scale
        hidden = _hidden(end - start, num_keys, window_size).to(scores.device)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, values)
    return out


def _hidden(num_queries: int, num_keys: int, window_size: tuple[int, int]) -> torch.Tensor:
    """Returns the keys that queries do not see, aligned to the bottom right; -1 is no limit."""
    left, right = window_size
    distances = torch.arange(num_keys) - torch.arange(num_keys - num_queries, num_keys)[:, None]
    hidden = (distances > right) if right >= 0 else torch.zeros_like(distances, dtype=torch.bool)
    return hidden | (distances < -left) if left >= 0 else hidden
