"""Paged KV caches for tests of the attention kernels, and a plain reference in float64.

Numbers of a cache that no kernel may read are NaN: blocks of no sequence, rows after a sequence's
end, and tokens before the window. Block tables are padded with a block of NaN.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from src.engine.kernels.arguments import CachePlaces, Projections
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.structs import AttentionData

SCALING = 0.2


class Shape(NamedTuple):
    """Heads of a layer."""

    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int


SHAPES = [
    Shape(12, 12, 64, 64),
    Shape(9, 3, 64, 64),
    Shape(8, 1, 256, 256),
    Shape(4, 2, 16, 48),
    Shape(64, 2, 80, 80),
    Shape(40, 40, 16, 16),
]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a layer's attention; a layer with sinks has random ones."""

    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False


PLAIN = Options()

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

OPTIONS = [
    PLAIN,
    Options(window=1),
    Options(window=16),
    Options(window=100),
    Options(softcap=2.0),
    Options(has_sinks=True),
    Options(window=30, softcap=2.0, has_sinks=True),
]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's heads, options and cache. Its numbers are NaN until a token is written.

    Args:
        shape: of the heads.
        options: of the attention.
        block_size: tokens of a block.
        num_blocks: the last belongs to no sequence.
        dtype: of the cache.
    """

    shape: Shape
    options: Options
    block_size: int
    num_blocks: int
    dtype: torch.dtype = torch.float32
    keys: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    sinks: torch.Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        for name, dim in [("keys", self.shape.key_dim), ("values", self.shape.value_dim)]:
            shape = (self.num_blocks, self.block_size, self.shape.num_kv_heads, dim)
            object.__setattr__(self, name, torch.full(shape, torch.nan, dtype=self.dtype))
        generator = torch.Generator().manual_seed(1)
        sinks = torch.randn(self.shape.num_heads, generator=generator)
        object.__setattr__(self, "sinks", sinks if self.options.has_sinks else None)

    def data(self, kernels: CpuKernels) -> AttentionData:
        """Describes the layer to the kernels."""
        return kernels.attention_data(
            self.shape.num_heads,
            self.keys,
            self.values,
            SCALING,
            self.options.window,
            self.options.softcap,
            self.sinks,
        )

    def create_tables(self, lengths: list[int]) -> torch.Tensor:
        """Deals random blocks to sequences: (num_sequences, width) int32."""
        counts = [-(-length // self.block_size) for length in lengths]
        blocks = torch.randperm(self.num_blocks - 1)
        tables = torch.full((len(lengths), max(counts) + 1), self.num_blocks - 1)
        for table, own in zip(tables, blocks[: sum(counts)].split(counts), strict=True):
            table[: len(own)] = own
        return tables.int()

    def write_visible(self, table: torch.Tensor, tokens: Projections, start: int) -> None:
        """Writes the keys and values before `start` that a token at `start` sees."""
        first = max(0, start + 1 - self.options.window) if self.options.window else 0
        span = slice(first, start)
        places = self.places(table, span)
        self.keys[places] = tokens.key[span].to(self.dtype)
        self.values[places] = tokens.value[span].to(self.dtype)

    def places(self, table: torch.Tensor, span: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the indices of blocks and rows of a sequence's tokens."""
        positions = torch.arange(span.start, span.stop)
        return table[positions // self.block_size].long(), positions % self.block_size

    def attend_by_definition(self, tokens: Projections, span: slice) -> torch.Tensor:
        """Attends with tokens of a whole sequence: (len(span), num_heads, value_dim) float64."""
        group = self.shape.num_heads // self.shape.num_kv_heads
        query = tokens.query[span].double()
        key, value = (
            heads.to(self.dtype).double().repeat_interleave(group, 1)
            for heads in (tokens.key, tokens.value)
        )
        scores = torch.einsum("qhd,khd->hqk", query, key) * SCALING
        if self.options.softcap is not None:
            scores = self.options.softcap * torch.tanh(scores / self.options.softcap)
        positions = torch.arange(span.start, span.stop)[:, None]
        others = torch.arange(len(key))
        hidden = (others > positions) | (others <= positions - (self.options.window or len(key)))
        scores = scores.masked_fill(hidden, -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.double()[:, None, None].expand(-1, len(query), 1)
            scores = torch.cat([scores, sinks], dim=-1)
        weights = scores.softmax(-1)[..., : len(key)]
        return torch.einsum("hqk,khd->qhd", weights, value)


def create_tokens(shape: Shape, num_tokens: int) -> Projections:
    """Creates views of one product, with heads of rows that are not adjacent, as a model does."""
    widths = [
        shape.num_heads * shape.key_dim,
        shape.num_kv_heads * shape.key_dim,
        shape.num_kv_heads * shape.value_dim,
    ]
    query, key, value = torch.randn(num_tokens, sum(widths) + 3)[:, 3:].split(widths, dim=1)
    return Projections(
        query.unflatten(1, (shape.num_heads, shape.key_dim)),
        key.unflatten(1, (shape.num_kv_heads, shape.key_dim)),
        value.unflatten(1, (shape.num_kv_heads, shape.value_dim)),
    )


def decode(
    kernels: CpuKernels,
    layer: Layer,
    tables: torch.Tensor,
    tokens: Projections,
    positions: list[int],
) -> torch.Tensor:
    """Attends with a token of each sequence: (num_rows, num_heads, value_dim)."""
    output = torch.full((len(positions), layer.shape.num_heads, layer.shape.value_dim), torch.nan)
    places = CachePlaces(tables, torch.tensor(positions))
    kernels.decode_attention(layer.data(kernels), tokens, places, output)
    return output


def prefill(
    kernels: CpuKernels, layer: Layer, table: torch.Tensor, tokens: Projections, start: int
) -> torch.Tensor:
    """Attends with consecutive tokens of a sequence: (num_tokens, num_heads, value_dim)."""
    shape = layer.shape
    output = torch.full((len(tokens.query), shape.num_heads, shape.value_dim), torch.nan)
    kernels.prefill_attention(layer.data(kernels), tokens, table, start, output)
    return output
