"""`LoraAdapter`: the weights of one adapter in memory."""

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """Low-rank update of one linear layer: it adds `x @ a.T @ b.T` to the output.

    Args:
        a: (rank, in_features).
        b: (out_features, rank), multiplied by the adapter's scaling.
    """

    a: "torch.Tensor"
    b: "torch.Tensor"

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """An adapter; requests hold it until they end, also if its name was unloaded.

    Args:
        name: for `model` of requests.
        weights: by the names of the base model's linear layers.
        key: differs for each load, so that no prefix of other weights is taken from the cache.
    """

    name: str
    weights: dict[str, LoraWeights]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
