"""Size, length and pace of a run.

Contract: plain data; `SMOKE` is a run of seconds that takes every path of the real one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Size, length and pace of a run."""

    steps: int = 2011  # on everything, and then
    drill_steps: int = 1000  # with drills of what is learned slowest, and then
    tool_steps: int = 1400  # with tools
    vocab_size: int = 4096
    num_embd: int = 192
    num_layers: int = 6
    num_heads: int = 4
    tokens_per_step: int = 4096
    block_size: int = 256
    tool_block_size: int = 384  # of the third leg, whose conversations are longer
    # Heads that are taught to look at tokens before: (layer, head, how many tokens back).
    previous_heads: tuple[tuple[int, int, int], ...] = ((2, 2, 1), (2, 1, 2))
    source_heads: tuple[tuple[int, int], ...] = ((3, 2), (4, 1), (5, 3))  # and where to copy from
    long_share: float = 0.08  # of each leg, at its end, on blocks of MAX_POSITIONS
    warmup_steps: int = 80
    decay_share: float = 0.55
    tokenizer_documents: int = 20_000
    log_every: int = 20
    checkpoint_every: int = 100
    seed: int = 1

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Steps of each leg."""
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
