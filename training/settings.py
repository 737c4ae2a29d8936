"""Size, length and pace of a run.

Contract: plain data; `SMOKE` is a run of seconds that takes every path of the real one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Size, length and pace of a run."""

    steps: int = 2011  # first leg: all kinds of documents
    drill_steps: int = 1000  # second leg: drills of the slowest abilities
    tool_steps: int = 1400  # third leg: tools
    vocab_size: int = 4096
    num_embd: int = 192
    num_layers: int = 6
    num_heads: int = 4
    tokens_per_step: int = 4096
    block_size: int = 256
    tool_block_size: int = 384  # of the third leg, which has longer conversations
    # Heads guided to earlier tokens: (layer, head, distance in tokens).
    previous_heads: tuple[tuple[int, int, int], ...] = ((2, 2, 1), (2, 1, 2))
    # Heads guided to the source of a copy: (layer, head).
    source_heads: tuple[tuple[int, int], ...] = ((3, 2), (4, 1), (5, 3))
    long_share: float = 0.08  # of each leg, at its end, on blocks of MAX_POSITIONS
    warmup_steps: int = 80
    decay_share: float = 0.55
    tokenizer_documents: int = 20_000
    log_every: int = 20
    checkpoint_every: int = 100
    seed: int = 1

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Returns the steps of each leg."""
        return self.steps, self.drill_steps, self.tool_steps


SMOKE = TrainSettings(
    steps=40,
    drill_steps=20,
    tool_steps=20,
    vocab_size=1024,
    num_embd=64,
    num_layers=2,
    num_heads=2,
    tokens_per_step=1024,
    previous_heads=((0, 0, 1),),
    source_heads=((1, 0),),
    warmup_steps=5,
    tokenizer_documents=500,
    log_every=10,
    checkpoint_every=20,
)
