"""Builds the engine of ENGINE, or the reference engine for models that need it."""

import logging

import torch

from src.engine.admission import AdmissionController
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.cpu_layers.fusion import fuse_layers
from src.engine.cpu_layers.quantization import quantize
from src.engine.cpu_layers.replace import can_be_replaced
from src.engine.interface import Engine
from src.engine.kernels.bindings import CpuKernels, choose_library
from src.engine.kernels.prefetch import tune
from src.engine.loop import EngineLoop
from src.engine.model.compatibility import IncompatibleModelError, check_model
from src.engine.model.kv_cache import LayerShape, num_bytes_per_slot
from src.engine.model.loader import LoadedModel
from src.engine.model.memory import free_memory
from src.engine.model.runner import ModelRunner
from src.engine.reference.engine import ReferenceEngine
from src.engine.request import UpdateCallback
from src.engine.scheduling.kv_slots import SlotPool
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.scheduler import Scheduler
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

GIB = 2**30
MEMORY_SHARE = 0.4  # of free memory, once the model is loaded; the rest is for activations
TOKENS_PER_STEP = {"cpu": 128, "cuda": 2048}
"""Tokens of a step that is short enough for streams, while a long prompt is computed."""

CHEAP_TOKENS = {"cpu": 16, "cuda": 64}
"""Tokens of a step that takes hardly longer than a step of one: reading the weights dominates."""


def create_engine(loaded: LoadedModel, config: EngineConfig, on_update: UpdateCallback) -> Engine:
    """Starts an engine for a model.

    A model that cannot run on the packed attention gets `ReferenceEngine`, with a warning.

    Raises:
        ModelLoadError: the memory is too small for a single sequence, or the model cannot be
            quantized as asked.
    """
    if config.engine == "continuous":
        try:
            core = create_core(loaded, config)
        except IncompatibleModelError as error:
            logger.warning(
                "the model runs one request at a time, on the reference engine: %s", error
            )
        else:
            max_live = core.max_num_seqs + config.max_queue_size
            return EngineLoop(core, AdmissionController(max_live, on_update, config.max_queue_size))
    if config.quantization != "none":
        quantize(loaded, config.quantization, _library(loaded, config))
    elif config.kernels == "native":
        raise ModelLoadError(
            "KERNELS=native: the reference engine runs an exact model as it is. Use KERNELS=auto,"
            " or a QUANTIZATION."
        )
    admission = AdmissionController(1 + config.max_queue_size, on_update)
    return ReferenceEngine(loaded, admission, config.max_queue_seconds)


def create_core(loaded: LoadedModel, config: EngineConfig) -> EngineCore:
    """Builds the continuous engine's core.

    Raises:
        IncompatibleModelError: the model cannot run on the packed attention.
        ModelLoadError: the memory is too small for a single sequence, or the model cannot be
            quantized as asked.
    """
    library = _library(loaded, config)
    layers = check_model(loaded, library)
    quantize(loaded, config.quantization, library)
    num_slots = _num_slots(loaded, layers, config)
    max_num_seqs = min(config.max_num_seqs, num_slots)
    device = loaded.model.device.type
    tokens_per_step = config.max_num_batched_tokens or TOKENS_PER_STEP[device]
    runner = ModelRunner(loaded, layers, num_slots, library)
    if library is not None:
        fuse_layers(loaded, runner, library)
    scheduler = Scheduler(
        SlotPool(num_slots, loaded.max_model_len),
        max_num_seqs,
        max(tokens_per_step, max_num_seqs),
        loaded.eos_token_ids,
        config.max_queue_seconds,
        DraftLimits(config.num_speculative_tokens, min(CHEAP_TOKENS[device], tokens_per_step)),
        config.max_queue_size,
    )
    return EngineCore(runner, scheduler)


def _library(loaded: LoadedModel, config: EngineConfig) -> CpuKernels | None:
    library = choose_library(config.kernels, can_be_replaced(next(loaded.model.parameters())))
    if library is not None:
        tune(library)
    return library


def _num_slots(loaded: LoadedModel, layers: dict[int, LayerShape], config: EngineConfig) -> int:
    """Returns two slots for each running sequence, for prefix caching; fewer if memory is short."""
    per_slot = num_bytes_per_slot(layers, loaded.max_model_len, loaded.model.dtype)
    budget = _memory_budget(loaded.model.device, config)
    num_slots = min(2 * config.max_num_seqs, int(budget // per_slot))
    if num_slots < 1:
        raise ModelLoadError(
            f"The KV cache may take {budget / GIB:.3g} GiB, and one sequence of"
            f" {loaded.max_model_len} tokens needs {per_slot / GIB:.3g} GiB. Lower MAX_MODEL_LEN,"
            " or raise KV_CACHE_GB if there is memory."
        )
    logger.info(
        "KV cache: %d slots of %d tokens, %.2f GiB when all are full",
        num_slots,
        loaded.max_model_len,
        num_slots * per_slot / GIB,
    )
    if num_slots < config.max_num_seqs:
        logger.warning(
            "memory suffices for %d sequences at a time, not for the %d of MAX_BATCH_SIZE",
            num_slots,
            config.max_num_seqs,
        )
    return num_slots


def _memory_budget(device: torch.device, config: EngineConfig) -> float:
    """Returns the size of the KV cache in bytes."""
    if config.kv_cache_gb is not None:
        return config.kv_cache_gb * GIB
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return 2 * MEMORY_SHARE * free
    return MEMORY_SHARE * free_memory()
