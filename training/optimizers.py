"""The two optimizers of the recipe: Muon for matrices, AdamW for embeddings, norms and biases.

Contract: `create_optimizers` covers every trainable parameter exactly once; `set_learning_rates`
scales both.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from transformers import GPT2LMHeadModel

MATRIX_LEARNING_RATE = 0.02
OTHER_LEARNING_RATE = 3e-3


class Muon(torch.optim.Optimizer):
    """Muon: momentum with an orthogonalized update (Jordan et al. 2024).

    Adjacent blocks of one matrix (GPT-2's query, key and value) are orthogonalized separately.
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Applies one update; matrices of one shape are orthogonalized together."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                update = self._momentum_update(parameter, group["momentum"])
                for part, change in _blocks(parameter, update):
                    by_shape[part.shape].append((part, change))
            for shape, pairs in by_shape.items():
                scale = group["lr"] * max(1.0, shape[1] / shape[0]) ** 0.5
                changes = orthogonalize(torch.stack([change for _, change in pairs]))
                for (part, _), change in zip(pairs, changes, strict=True):
                    part.add_(change, alpha=-scale)

    def _momentum_update(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: torch.Tensor = state["momentum"]
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def orthogonalize(matrices: torch.Tensor, num_iterations: int = 5) -> torch.Tensor:
    """Moves the singular values of each (rows, columns) matrix near 1 by Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def create_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Creates Muon over the transformer's matrices and AdamW over everything else."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".h." in name]
    others = [p for name, p in named if p.ndim != 2 or ".h." not in name]
    adam = torch.optim.AdamW(
        others, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    return [Muon(matrices, lr=MATRIX_LEARNING_RATE), adam]


def set_learning_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Sets every learning rate to `factor` times its peak."""
    for optimizer, peak in zip(
        optimizers, (MATRIX_LEARNING_RATE, OTHER_LEARNING_RATE), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def optimizer_states(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """Returns the optimizers' state for a checkpoint."""
    return [optimizer.state_dict() for optimizer in optimizers]


def _blocks(
    parameter: torch.Tensor, update: torch.Tensor
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Splits GPT-2's fused (d, 3d) query-key-value matrix into three square ones; others stay
    whole.
    """
    rows, columns = parameter.shape
    num_parts = 3 if columns == 3 * rows else 1
    return zip(parameter.chunk(num_parts, dim=1), update.chunk(num_parts, dim=1), strict=True)
