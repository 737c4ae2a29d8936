"""Description of a step's packed tokens: sequences, slots and positions."""

from dataclasses import dataclass, field

import torch

PADDING = 64
"""The keys of a sequence may be padded to twice its length plus this number of tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in the pack, at positions from `start` to `end`."""

    slot: int
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Run:
    """Decoding sequences in adjacent slots: one batch of attention over a view of the cache.

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
    """Tokens of one forward pass.

    Args:
        decodes: sequences of one token each; they come first in the pack.
        prefills: all others, in the pack's order.
        slots: (num_tokens,), the slot of each packed token.
        positions: (num_tokens,), its position in its sequence.
        runs: of the decodes, computed once for all layers.
        masks: of attention, computed once for all layers, by slot and window.
    """

    decodes: list[Segment]
    prefills: list[Segment]
    slots: torch.Tensor
    positions: torch.Tensor
    runs: list[Run] | None = None
    masks: dict[tuple[int, int | None], torch.Tensor | None] = field(default_factory=dict)

    def find_runs(self) -> list[Run]:
        """Returns the decodes as runs."""
        if self.runs is None:
            self.runs = find_runs(self.decodes)
        return self.runs


def find_runs(decodes: list[Segment]) -> list[Run]:
    """Groups sequences, in the order of their slots, into runs.

    A run ends at a gap in the slots, and where lengths differ too much. A copy of the keys, or rows
    padded to many times their length, would cost more than the attention.
    """
    runs: list[Run] = []
    first = 0
    for index in range(1, len(decodes) + 1):
        if index == len(decodes) or not _continues(decodes[first:index], decodes[index]):
            segments = decodes[first:index]
            slots = slice(segments[0].slot, segments[-1].slot + 1)
            runs.append(Run(slice(first, index), slots, [segment.end for segment in segments]))
            first = index
    return runs


def _continues(segments: list[Segment], following: Segment) -> bool:
    ends = [following.end, *(segment.end for segment in segments)]
    return following.slot == segments[-1].slot + 1 and max(ends) <= 2 * min(ends) + PADDING
