"""Description of a step's packed tokens: sequences, blocks and positions."""

from array import array
from dataclasses import dataclass, field

import numpy as np
import torch

from src.engine.attention.device_copy import copy_to_device

PADDING = 64
"""The keys of a sequence may be padded to twice its length plus this number of tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in the pack, at positions from `start` to `end`.

    Args:
        block_table: indices of the sequence's blocks, at least up to `end`.
        start: position of the first token.
        end: position after the last one.
    """

    block_table: "array[int]"
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Run:
    """Decoding sequences of similar lengths: one padded batch of attention.

    Args:
        rows: of the pack.
        ends: each sequence's number of tokens.
    """

    rows: slice
    ends: list[int]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of a step's segments as tensors, for attention of all segments in one call.

    Args:
        query_starts: (num_segments + 1,) int32, first row of each segment in the pack, and the end.
        key_starts: (num_segments + 1,) int32, the same for packed keys of all sequences.
        num_keys: (num_segments,) int32, keys of each sequence, those of its segment included.
        max_num_queries: of a segment.
        max_num_keys: of a sequence.
    """

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    num_keys: torch.Tensor
    max_num_queries: int
    max_num_keys: int


@dataclass(slots=True)
class Step:
    """Tokens of one forward pass.

    Args:
        segments: in the pack's order; those of one token, the decodes, come first.
        num_decodes: number of segments of one token.
        positions: (num_tokens,), the position of each packed token in its sequence.
        places: (num_tokens,), its place among the tokens of all blocks.
        block_tables: (num_segments, width) int32, indices of blocks. A shorter table is padded with
            its own last block: values of other sequences may be NaN.
        runs: of the decodes, computed once for all layers.
        masks: of attention, computed once for all layers, by first row and window.
        lengths: computed once for all layers.
    """

    segments: list[Segment]
    num_decodes: int
    positions: torch.Tensor
    places: torch.Tensor
    block_tables: torch.Tensor
    runs: list[Run] | None = None
    masks: dict[tuple[int, int | None], torch.Tensor | None] = field(default_factory=dict)
    lengths: Lengths | None = None

    @classmethod
    def create(cls, segments: list[Segment], block_size: int, device: torch.device) -> "Step":
        """Describes packed tokens.

        Args:
            segments: in the pack's order, those of one token first.
            block_size: tokens of a block.
            device: of the model.
        """
        tables = np.zeros((len(segments), max(len(one.block_table) for one in segments)), np.int32)
        positions, places = [], []
        for table, one in zip(tables, segments, strict=True):
            table[:] = one.block_table[-1]
            table[: len(one.block_table)] = one.block_table
            span = np.arange(one.start, one.end)
            block, offset = table[span // block_size].astype(np.int64), span % block_size
            positions.append(span)
            places.append(block * block_size + offset)
        arrays = [np.concatenate(positions), np.concatenate(places), tables]
        if device.type != "cpu":  # attention on a CPU does not need them
            arrays += _count_lengths(segments)
        tensors = copy_to_device(arrays, device)
        num_decodes = sum(one.num_tokens == 1 for one in segments)
        step = cls(segments, num_decodes, tensors[0], tensors[1], tensors[2])
        if device.type != "cpu":
            step.lengths = _create_lengths(segments, tensors[3:])
        return step

    @property
    def has_prefills(self) -> bool:
        return self.num_decodes < len(self.segments)

    def find_runs(self) -> list[Run]:
        """Returns the decodes as runs."""
        if self.runs is None:
            self.runs = find_runs([one.end for one in self.segments[: self.num_decodes]])
        return self.runs

    def find_lengths(self) -> Lengths:
        """Returns the segments' lengths on the device."""
        if self.lengths is None:
            tensors = copy_to_device(_count_lengths(self.segments), self.positions.device)
            self.lengths = _create_lengths(self.segments, tensors)
        return self.lengths


def _count_lengths(segments: list[Segment]) -> list[np.ndarray]:
    """Returns the arrays of `Lengths`, in its order."""
    num_keys = np.array([one.end for one in segments], np.int32)
    query_starts = np.cumsum([0, *(one.num_tokens for one in segments)], dtype=np.int32)
    return [query_starts, np.cumsum([0, *num_keys], dtype=np.int32), num_keys]


def _create_lengths(segments: list[Segment], tensors: list[torch.Tensor]) -> Lengths:
    query_starts, key_starts, num_keys = tensors
    max_num_queries = max(one.num_tokens for one in segments)
    max_num_keys = max(one.end for one in segments)
    return Lengths(query_starts, key_starts, num_keys, max_num_queries, max_num_keys)


def find_runs(ends: list[int]) -> list[Run]:
    """Groups sequences, in the order of their lengths, into runs.

    A run ends where lengths differ too much: rows padded to many times their length would cost
    more than the attention.

    Args:
        ends: each sequence's number of tokens, in rising order.
    """
    runs: list[Run] = []
    first = 0
    for index in range(1, len(ends) + 1):
        if index == len(ends) or ends[index] > 2 * ends[first] + PADDING:
            runs.append(Run(slice(first, index), ends[first:index]))
            first = index
    return runs
