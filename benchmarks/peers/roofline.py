"""Roofline bound on generation (Williams et al. 2009): memory and arithmetic are the only limits.

A sequence has P prompt tokens and N new ones; b of them run at once. A step reads all weights, W
bytes, at the machine's bandwidth B. It computes two operations for each weight and token, at the
rate F of large matrix products. Its time is the longer of the two:

    time(tokens, heads) = max(W / B, 2 (tokens * layers + heads * head) / F)

    bound = b N / (time(b P, b) + (N - 1) time(b, b))    tokens per second

`layers` and `head` are numbers of weights. The first step computes the prompts, and the head for
sampled positions alone. W is 4 bytes a weight for float32 and 1 for 8 bits, and F has both rates.
Attention, keys and values are left out: at these lengths they are a hundredth of it.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.records import Machine, Weights

NUM_BYTES = {"float32": 4, "8-bit": 1}
EMBEDDINGS = ("transformer.wte.weight", "model.embed_tokens.weight")
POSITIONS = "transformer.wpe.weight"


def count_weights(folder: Path) -> Weights:
    """Counts the weights of a model with tied embeddings; vectors and positions are left out."""
    layers = head = 0
    for name, tensor in read_header(folder / "model.safetensors").items():
        shape = tensor["shape"]
        if name in EMBEDDINGS:
            head = shape[0] * shape[1]
        elif len(shape) == 2 and name != POSITIONS:
            layers += shape[0] * shape[1]
    return Weights(layers, head)


def read_header(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Returns names, shapes and types of a safetensors file's tensors: JSON behind its length."""
    with checkpoint.open("rb") as file:
        header: dict[str, dict[str, Any]] = json.loads(
            file.read(int.from_bytes(file.read(8), "little"))
        )
    header.pop("__metadata__", None)
    return header


def bound(
    machine: Machine, weights: Weights, precision: str, batch: int, prompt: int, new: int
) -> float:
    """Returns the bound in tokens per second."""
    num_bytes = NUM_BYTES[precision] * (weights.layers + weights.head)
    reading = num_bytes / (1e9 * machine.gb_per_second)
    is_float32 = precision == "float32"
    rate = 1e9 * (machine.gflop_per_second if is_float32 else machine.int8_gop_per_second)

    def seconds(num_tokens: int) -> float:
        operations = 2 * (num_tokens * weights.layers + batch * weights.head)
        return max(reading, operations / rate)

    return batch * new / (seconds(batch * prompt) + (new - 1) * seconds(batch))
