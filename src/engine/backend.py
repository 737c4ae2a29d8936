"""Backend: implementations of a model's costly operations, by PyTorch or by our own CPU kernels.

The factory chooses one and hands its parts to those that need them, so nothing else asks whether
our kernels were built.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from src.engine.attention.kv_cache import CacheLayout, LayerShape
from src.engine.attention.native_attention import NativeAttention
from src.engine.attention.packed_attention import Attention
from src.engine.attention.torch_attention import TorchAttention
from src.engine.attention.varlen_attention import VarlenAttention
from src.engine.config import Kernels
from src.engine.cpu_layers.fusion import fuse_layers
from src.engine.cpu_layers.linear import CreateLinear, create_torch_linear
from src.engine.cpu_layers.native_linear import create_native_linear
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.loading import load_kernels
from src.engine.model.loader import LoadedModel
from src.engine.model.runner import ModelRunner
from src.engine.sampling.kernels import NativeSampling, TorchSampling
from src.engine.sampling.sampler import Sampler
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """Implementations that belong together.

    Args:
        attention: attention of a layer.
        sampler: selects tokens.
        create_linear: creates faster linear layers.
        fuse_layers: fuses a model's layers; returns their number.
    """

    attention: Attention
    sampler: Sampler
    create_linear: CreateLinear
    fuse_layers: Callable[[LoadedModel, ModelRunner], int]

    def create_runner(
        self, loaded: LoadedModel, layers: dict[int, LayerShape], layout: CacheLayout
    ) -> ModelRunner:
        """Creates a runner with the backend's attention and sampler."""
        return ModelRunner(loaded, layers, layout, self.attention, self.sampler)


TORCH_BACKEND = Backend(
    TorchAttention(), Sampler(TorchSampling()), create_torch_linear, lambda loaded, runner: 0
)

FLASH_BACKEND = replace(TORCH_BACKEND, attention=VarlenAttention())
"""PyTorch's kernels, with its FlashAttention over the blocks of the KV cache."""


def create_native_backend(kernels: CpuKernels) -> Backend:
    """Creates the backend of our own kernels."""
    return Backend(
        NativeAttention(kernels),
        Sampler(NativeSampling(kernels)),
        partial(create_native_linear, kernels),
        partial(fuse_layers, kernels),
    )


def choose_backend(
    kernels: Kernels, is_float32_on_cpu: bool, has_flash_attention: bool = False
) -> Backend:
    """Chooses by the setting KERNELS and by the model's format.

    Args:
        kernels: the setting.
        is_float32_on_cpu: the model can run on our own kernels.
        has_flash_attention: the model can run on `FLASH_BACKEND`.

    Raises:
        ModelLoadError: KERNELS=native, and our kernels are not available for this model.
    """
    if kernels == "pytorch":
        return TORCH_BACKEND
    native = load_kernels() if is_float32_on_cpu else None
    if native is not None:
        logger.info("KERNELS=%s: our own kernels, for %s", kernels, native.variant)
        return create_native_backend(native)
    if is_float32_on_cpu:
        reason, remedy = "none were built for this processor", "make install with a C++ compiler"
    else:
        reason, remedy = "they need float32 on a CPU", "DEVICE=cpu and DTYPE=float32"
    if kernels == "native":
        raise ModelLoadError(
            f"KERNELS=native: our own kernels cannot be used: {reason}."
            f" Use {remedy}, or KERNELS=auto."
        )
    logger.info("KERNELS=%s: PyTorch's kernels; our own cannot be used: %s", kernels, reason)
    if has_flash_attention:
        logger.info("attention: FlashAttention over the blocks of the KV cache, one call a layer")
        return FLASH_BACKEND
    return TORCH_BACKEND
