"""Exercise 15: a sampling parameter through all layers.

Add `epsilon_cutoff`: tokens with a probability below it are dropped, but never the most likely one.
It is in [0, 1), and 0 is the default, which drops nothing. Three places need it.
"""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field


class GenerateRequest(BaseModel):
    """Body of a request: checked, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    temperature: float = Field(default=1.0, gt=0, le=2)


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of the engine; it has other callers than the API, so it checks them too."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 2:
            raise ValueError(f"temperature must be in (0, 2], not {self.temperature}")


def sampling_params(request: GenerateRequest) -> SamplingParams:
    """Returns the engine's parameters of a request."""
    return SamplingParams(temperature=request.temperature)


def distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Returns the probabilities from which a token is drawn, (vocab_size,); they add up to 1."""
    # Begin with `(logits / params.temperature).softmax(dim=-1)`.
    raise NotImplementedError
