"""Sampled tokens and log-probabilities: records that cross the engine's boundary. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities of one position.

    They are the model's own: penalties, temperature and grammars do not change them.

    Args:
        chosen: the token at this position.
        top: the most likely tokens, most likely first; `chosen` may be among them.
    """

    chosen: TokenLogprob
    top: list[TokenLogprob]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A sampled token, with its log-probabilities if the request wants them."""

    token_id: int
    logprobs: PositionLogprobs | None
