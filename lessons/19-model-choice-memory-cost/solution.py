"""An answer to exercise 19."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Numbers of a model."""

    num_parameters: int
    num_layers: int
    num_kv_heads: int
    head_size: int
    max_tokens: int


def plan(
    model: Model, memory: int, request_tokens: int, *, bytes_per_number: int, runtime: int
) -> int:
    """Returns how many requests run at the same time; 0 if not even one does."""
    if request_tokens > model.max_tokens:
        return 0
    rest = memory - runtime - model.num_parameters * bytes_per_number
    token = 2 * model.num_layers * model.num_kv_heads * model.head_size * bytes_per_number
    num_blocks = max(0, rest) // (16 * token)
    return num_blocks // math.ceil(request_tokens / 16)
