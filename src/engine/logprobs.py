"""Sampled tokens and log-probabilities: records that cross the engine's boundary. No torch."""

from dataclasses import dataclass
from typing import Literal

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]
"""Values reported for tokens, by vLLM's names.

`raw_logprobs` are of the model's own logits, `processed_logprobs` of the distribution that the
token is sampled from. A greedy token is processed at temperature 1, without filters.
"""

MIN_LOGPROB = -9999.0
"""Value of impossible tokens, as in OpenAI's API and vLLM: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, or its logit.

    `logprobs_mode` decides. The value is at least MIN_LOGPROB.
    """

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities of one position.

    By default they are the model's own: penalties, temperature and grammars do not change them.

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
