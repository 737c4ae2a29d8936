"""Exercise 19: what fits?"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Numbers of a model.

    Args:
        num_parameters: number of weights.
        num_layers: number of layers.
        num_kv_heads: number of heads with keys and values in the cache, in each layer.
        head_size: numbers in a key, and in a value, of one head.
        max_tokens: context: the most tokens that one request may have.
    """

    num_parameters: int
    num_layers: int
    num_kv_heads: int
    head_size: int
    max_tokens: int


def plan(
    model: Model, memory: int, request_tokens: int, *, bytes_per_number: int, runtime: int
) -> int:
    """Returns how many requests run at the same time; 0 if not even one does.

    Memory holds the weights, the runtime and the KV cache, which takes all of the rest. A request
    needs room for all of its tokens. Its cache is given out in blocks of 16 tokens, so a request of
    17 tokens takes two. A request with more tokens than the model's context cannot run.

    Args:
        model: the model.
        memory: size of the machine's memory in bytes.
        request_tokens: number of tokens of each request, prompt and answer together.
        bytes_per_number: bytes of a weight, and of a number in the cache.
        runtime: bytes that everything else takes.
    """
    raise NotImplementedError
