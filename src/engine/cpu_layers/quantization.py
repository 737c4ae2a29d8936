"""Replaces a model's layers by faster or quantized ones, and limits how much that changes it."""

import logging

import torch
from transformers import PreTrainedModel

from src.engine.config import Quantization
from src.engine.cpu_layers.linear import CreateLinear
from src.engine.cpu_layers.replace import can_be_replaced, replace_layers
from src.engine.model.compatibility import probe_token_ids
from src.engine.model.loader import LoadedModel
from src.engine.model.memory import release_free_memory
from src.engine.progress import log_phase
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

BACKENDS = {"fp16": "fbgemm", "int8": "onednn"}
"""PyTorch's names of the quantized backends."""

MAX_DIVERGENCE: dict[Quantization, float] = {"none": 0.01, "fp16": 0.5, "int8": 0.5}
"""Largest Kullback-Leibler divergence from the original model, in nats a token.

Exact layers differ only by the order of additions, which shows in 16-bit formats.
"""


def quantize(
    loaded: LoadedModel,
    quantization: Quantization,
    create_linear: CreateLinear,
    before: torch.Tensor | None = None,
) -> None:
    """Replaces layers in place; with `none` by exact ones, if possible.

    Args:
        loaded: its attention must still be the original.
        quantization: kind of rounding.
        create_linear: creates the layers.
        before: log-probabilities of `probe` by the original layers, if they are known.

    Raises:
        ModelLoadError: the quantization is not available here, or changes the model too much.
    """
    if quantization != "none":
        _check_device(loaded.model, quantization)
    before = probe(loaded) if before is None else before
    with log_phase("packing linear layers") as phase:
        num_linears = replace_layers(loaded.model, quantization, create_linear, phase.add)
        release_free_memory()
    divergence = _divergence(before, probe(loaded))
    logger.info(
        "QUANTIZATION=%s: %d linear layers replaced; on a probe the model diverges by %.1g nats",
        quantization,
        num_linears,
        divergence,
    )
    if quantization != "none" and not num_linears:
        raise ModelLoadError(
            f"QUANTIZATION={quantization}: this model has no linear layers that can be quantized."
            " Use QUANTIZATION=none."
        )
    if not divergence <= MAX_DIVERGENCE[quantization]:
        raise ModelLoadError(
            f"QUANTIZATION={quantization} changes this model too much: on a probe its distributions"
            f" diverge by {divergence:.3g} nats a token, and the limit is"
            f" {MAX_DIVERGENCE[quantization]}. Use QUANTIZATION=none"
            + (" or fp16." if quantization == "int8" else ".")
        )


def _check_device(model: PreTrainedModel, quantization: Quantization) -> None:
    weight = next(model.parameters())
    if not can_be_replaced(weight):
        raise ModelLoadError(
            f"QUANTIZATION={quantization} needs float32 on a CPU, and the model is"
            f" {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}. Use"
            " QUANTIZATION=none, or DEVICE=cpu and DTYPE=float32."
        )
    if BACKENDS[quantization] not in torch.backends.quantized.supported_engines:
        raise ModelLoadError(
            f"QUANTIZATION={quantization} needs PyTorch's {BACKENDS[quantization]} kernels, which"
            " its build for this processor does not have. Use QUANTIZATION=none."
        )


@torch.inference_mode()
def probe(loaded: LoadedModel) -> torch.Tensor:
    """Returns log-probabilities after each token of a probe: (length, vocab_size), float32."""
    logits: torch.Tensor = loaded.model(probe_token_ids(loaded), use_cache=False).logits
    return logits[0].float().log_softmax(dim=-1)


def _divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Returns the mean Kullback-Leibler divergence of two sets of log-probabilities, in nats."""
    divergence = (before.exp() * (before - after)).sum(dim=-1).mean()
    return divergence.abs().item()  # rounding may make it negative
