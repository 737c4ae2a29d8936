"""Operations on logits that sampling needs, by PyTorch or by our own CPU kernels."""

from typing import Protocol

import torch

from src.engine.kernels.bindings import CpuKernels
from src.engine.sampling.stripes import striped_top_k

NUM_CANDIDATES = 256
"""Most likely tokens that are searched first."""

NUM_NATIVE_CANDIDATES = 512
"""More of them, as our own kernels find them several times as fast."""


class SamplingKernels(Protocol):
    """Operations on logits, (num_rows, vocab_size)."""

    def max(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns each row's largest logit, NaN if the row has a NaN: (num_rows,)."""

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the first of each row's most likely tokens: ids, (num_rows,)."""

    def top_probs(
        self, logits: torch.Tensor, temperatures: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the largest probabilities, the largest first, and their token ids.

        Args:
            logits: the largest of each row finite.
            temperatures: (num_rows,).

        Returns:
            (num_rows, num_candidates) each.
        """


class TorchSampling:
    """PyTorch's operations, on any device.

    Args:
        num_candidates: limit of `top_probs`.
    """

    def __init__(self, num_candidates: int = NUM_CANDIDATES) -> None:
        self._num_candidates = num_candidates

    def max(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.amax(dim=-1)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=-1)

    def top_probs(
        self, logits: torch.Tensor, temperatures: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        probs = softmax(logits, temperatures)
        return striped_top_k(probs, min(self._num_candidates, logits.shape[-1]))


class NativeSampling:
    """Our own kernels, for float32 on a CPU."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels

    def max(self, logits: torch.Tensor) -> torch.Tensor:
        return self._kernels.argmax(logits)[0]

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        return self._kernels.argmax(logits)[1]

    def top_probs(
        self, logits: torch.Tensor, temperatures: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_candidates = min(NUM_NATIVE_CANDIDATES, logits.shape[-1])
        return self._kernels.top_k_probs(logits, temperatures, num_candidates)


def softmax(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """Returns probabilities at each row's temperature; each row is summed in one fixed order."""
    return (logits / temperatures[:, None]).softmax(dim=-1)
