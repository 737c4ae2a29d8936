"""An answer to exercise 15."""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field


class GenerateRequest(BaseModel):
    """Body of a request: checked, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    temperature: float = Field(default=1.0, gt=0, le=2)
    epsilon_cutoff: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of the engine; it has other callers than the API, so it checks them too."""

    temperature: float = 1.0
    epsilon_cutoff: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 2:
            raise ValueError(f"temperature must be in (0, 2], not {self.temperature}")
        if not 0 <= self.epsilon_cutoff < 1:
            raise ValueError(f"epsilon_cutoff must be in [0, 1), not {self.epsilon_cutoff}")


def sampling_params(request: GenerateRequest) -> SamplingParams:
    """Returns the engine's parameters of a request."""
    return SamplingParams(temperature=request.temperature, epsilon_cutoff=request.epsilon_cutoff)


def distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Returns the probabilities from which a token is drawn, (vocab_size,); they add up to 1."""
    probs = (logits / params.temperature).softmax(dim=-1)
    kept = probs * ((probs >= params.epsilon_cutoff) | (probs == probs.max()))
    return kept / kept.sum()
