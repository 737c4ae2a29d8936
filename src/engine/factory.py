"""Creates the engine of the settings, or the reference engine if the model needs that."""

import logging
from functools import partial

import torch

from src.engine.admission import AdmissionController
from src.engine.backend import Backend, choose_backend
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.cpu_layers.quantization import probe, quantize
from src.engine.cpu_layers.replace import can_be_replaced
from src.engine.interface import Engine
from src.engine.loop import EngineLoop
from src.engine.model.compatibility import (
    IncompatibleModelError,
    check_for_states,
    check_model,
)
from src.engine.model.kv_cache import LayerShape, num_bytes_per_slot
from src.engine.model.loader import LoadedModel
from src.engine.model.memory import free_memory
from src.engine.model.weights.stored import restore_linears
from src.engine.progress import log_phase
from src.engine.reference.engine import ReferenceEngine
from src.engine.request import UpdateCallback
from src.engine.scheduling.kv_slots import SlotPool
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.scheduler import Scheduler
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

GIB = 2**30
MEMORY_SHARE = 0.4
"""Share of the memory for the KV cache that is free once the model is loaded."""

TOKENS_PER_STEP = {"cpu": 128, "cuda": 2048}
"""Default of MAX_NUM_BATCHED_TOKENS: small enough that long prompts do not stall streams."""

CHEAP_TOKENS = {"cpu": 16, "cuda": 64}
"""Tokens of a step that takes hardly longer than one of a single token: both read all weights."""


def create_engine(loaded: LoadedModel, config: EngineConfig, on_update: UpdateCallback) -> Engine:
    """Starts an engine for a model.

    A model that cannot run on our attention gets `ReferenceEngine`; the log gives the reason.

    Raises:
        ModelLoadError: the memory is too small for one sequence, or the model cannot be
            quantized.
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
        quantize(loaded, config.quantization, _choose_backend(loaded, config).create_linear)
    elif config.kernels == "native":
        raise ModelLoadError(
            "KERNELS=native: the reference engine runs an exact model as it is. Use KERNELS=auto,"
            " or a QUANTIZATION."
        )
    restore_linears(loaded.model)
    admission = AdmissionController(1 + config.max_queue_size, on_update)
    return ReferenceEngine(loaded, admission, config.max_queue_seconds)


def create_core(loaded: LoadedModel, config: EngineConfig) -> EngineCore:
    """Creates the core of the continuous engine.

    Raises:
        IncompatibleModelError: the model cannot run on our attention.
        ModelLoadError: the memory is too small for one sequence, or the model cannot be
            quantized.
    """
    backend = _choose_backend(loaded, config)
    create_runner = partial(backend.create_runner, loaded)
    check_for_states(loaded)
    with log_phase("checking attention"):
        expected = probe(loaded)
        layers = check_model(loaded, create_runner, expected[-1])
    quantize(loaded, config.quantization, backend.create_linear, expected)
    num_slots = _num_slots(loaded, layers, config)
    max_num_seqs = min(config.max_num_seqs, num_slots)
    device = loaded.model.device.type
    tokens_per_step = config.max_num_batched_tokens or TOKENS_PER_STEP[device]
    runner = create_runner(layers, num_slots)
    backend.fuse_layers(loaded, runner)
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


def _choose_backend(loaded: LoadedModel, config: EngineConfig) -> Backend:
    return choose_backend(config.kernels, can_be_replaced(next(loaded.model.parameters())))


def _num_slots(loaded: LoadedModel, layers: dict[int, LayerShape], config: EngineConfig) -> int:
    """Returns two slots for each running sequence, one of them for ended ones, as memory allows."""
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
            "the KV cache has memory for %d sequences, fewer than MAX_BATCH_SIZE=%d",
            num_slots,
            config.max_num_seqs,
        )
    return num_slots


def _memory_budget(device: torch.device, config: EngineConfig) -> float:
    """Returns the bytes that the KV cache may take."""
    if config.kv_cache_gb is not None:
        return config.kv_cache_gb * GIB
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return 2 * MEMORY_SHARE * free
    return MEMORY_SHARE * free_memory()
