"""How one request wants its tokens chosen."""

from dataclasses import dataclass

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would overflow."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    Args:
        max_tokens: new tokens at most, >= 1.
        temperature: divides the logits; 0 is greedy decoding, up to 2.
        top_p: nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751): the smallest set of most
            likely tokens whose probabilities add up to at least this, in (0, 1].
        top_k: only the k most likely tokens; 0 is all of them.
        seed: makes sampling repeatable; None draws a new one.
        stop: texts that end the generation; they are not part of the output.

    Raises:
        ValueError: a value is out of its range.
    """

    max_tokens: int = 100
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}")
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW
