"""Creates the engine of the settings, or the reference engine if the model needs that."""

import logging
from functools import partial

import torch

from src.engine.admission import AdmissionController
from src.engine.attention.kv_cache import (
    CacheLayout,
    LayerShape,
    num_bytes_per_token,
    widest_window,
)
from src.engine.attention.varlen_attention import is_supported
from src.engine.attention.varlen_trial import passes_trial
from src.engine.backend import Backend, choose_backend
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.cpu_layers.quantization import probe, quantize
from src.engine.cpu_layers.replace import can_be_replaced
from src.engine.interface import Engine
from src.engine.loop import EngineLoop
from src.engine.lora.state import LoraState, divide_layers
from src.engine.model.compatibility import (
    IncompatibleModelError,
    check_for_states,
    check_model,
)
from src.engine.model.loader import LoadedModel
from src.engine.model.memory import free_memory
from src.engine.model.weights.stored import restore_linears
from src.engine.progress import log_phase
from src.engine.reference.engine import ReferenceEngine
from src.engine.request import UpdateCallback
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.prompt_lookup import DraftLimits
from src.engine.scheduling.scheduler import Scheduler
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

GIB = 2**30
MEMORY_SHARE = 0.4
"""Share of the memory for the KV cache that is free once the model is loaded."""

TOKENS_PER_STEP = {"cpu": 128, "cuda": 2048}
"""Default of MAX_NUM_BATCHED_TOKENS: small enough that long prompts do not stall streams."""

BLOCK_SIZE = {"cpu": 16, "cuda": 256}
"""Tokens of a block of the KV cache; FlashAttention on CUDA takes multiples of 256 alone."""

MIN_CACHE_TOKENS = 1024
"""The service starts if the KV cache holds that many tokens, or the model's whole context."""

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
        lora = LoraState() if config.lora else None
        try:
            core = create_core(loaded, config, lora)
        except IncompatibleModelError as error:
            logger.warning(
                "the model runs one request at a time, on the reference engine: %s", error
            )
        else:
            max_live = core.max_num_seqs + config.max_queue_size
            admission = AdmissionController(max_live, on_update, config.max_queue_size)
            engine = EngineLoop(core, admission)
            engine.lora = lora
            return engine
    if config.lora:
        raise ModelLoadError(
            "LORA_DIR, LORA_MODULES: the reference engine, which this model or ENGINE=reference"
            " needs, has no LoRA adapters. Leave both empty, or use ENGINE=continuous."
        )
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


def create_core(
    loaded: LoadedModel, config: EngineConfig, lora: LoraState | None = None
) -> EngineCore:
    """Creates the core of the continuous engine; with `lora` it takes requests with adapters.

    Raises:
        IncompatibleModelError: the model cannot run on our attention.
        ModelLoadError: the memory is too small for one sequence, or the model cannot be
            quantized.
    """
    # cuDNN's attention builds a plan for each new shape, and nearly all steps have new ones.
    torch.backends.cuda.enable_cudnn_sdp(False)
    backend = _choose_backend(loaded, config)
    create_runner = partial(backend.create_runner, loaded)
    check_for_states(loaded)
    with log_phase("checking attention"):
        expected = probe(loaded)
        layers = check_model(loaded, create_runner, expected[-1])
    quantize(loaded, config.quantization, backend.create_linear, expected)
    device = loaded.model.device.type
    layout = _choose_layout(loaded, layers, config)
    max_num_seqs = config.max_num_seqs
    tokens_per_step = config.max_num_batched_tokens or TOKENS_PER_STEP[device]
    runner = create_runner(layers, layout)
    originals = lora.attach(loaded.model) if lora else {}
    backend.fuse_layers(loaded, runner)
    if lora is not None:
        divide_layers(loaded.model, originals, lora, runner.attention)
        runner.before_forward = partial(lora.prepare, runner.attention)
    scheduler = Scheduler(
        BlockPool(layout.num_blocks, layout.block_size, widest_window(layers)),
        max_num_seqs,
        max(tokens_per_step, max_num_seqs),
        loaded.eos_token_ids,
        config.max_queue_seconds,
        DraftLimits(config.num_speculative_tokens, min(CHEAP_TOKENS[device], tokens_per_step)),
        config.max_queue_size,
    )
    return EngineCore(runner, scheduler)


def _choose_backend(loaded: LoadedModel, config: EngineConfig) -> Backend:
    weight = next(loaded.model.parameters())
    has_flash_attention = (
        config.kernels == "auto"
        and is_supported(weight.device, weight.dtype)
        and passes_trial(weight.device, weight.dtype)
    )
    return choose_backend(config.kernels, can_be_replaced(weight), has_flash_attention)


def _choose_layout(
    loaded: LoadedModel, layers: dict[int, LayerShape], config: EngineConfig
) -> CacheLayout:
    """Returns the layout of the KV cache, with as many blocks as memory allows.

    More than twice the tokens of all running sequences are of no use.

    Raises:
        ModelLoadError: the memory is too small.
    """
    device, context = loaded.model.device, loaded.max_model_len
    block_size = BLOCK_SIZE[device.type]
    dtype = loaded.model.dtype
    if config.kv_cache_dtype != "auto":
        dtype = getattr(torch, config.kv_cache_dtype)
    per_token = num_bytes_per_token(layers, dtype)
    budget = _memory_budget(device, config)
    num_useful = 2 * config.max_num_seqs * -(-context // block_size)
    num_blocks = min(num_useful, int(budget // (per_token * block_size)))
    layout = CacheLayout(num_blocks, block_size, dtype)
    if layout.num_tokens < min(context, MIN_CACHE_TOKENS):
        raise ModelLoadError(
            f"The KV cache may take {budget / GIB:.3g} GiB, which holds {layout.num_tokens} tokens"
            f" of {per_token / 1024:.3g} KiB; at least {min(context, MIN_CACHE_TOKENS)} are needed."
            " Raise KV_CACHE_GB if there is memory, or serve a smaller model."
        )
    _log_layout(layout, per_token, context)
    return layout


def _log_layout(layout: CacheLayout, per_token: int, context: int) -> None:
    """Logs how many tokens fit, and requests of them."""
    num_tokens = layout.num_tokens
    logger.info(
        "KV cache: %d tokens in %d blocks of %d, %.2f GiB when full;"
        " %.1f requests of the whole context (%d tokens) at once, or %.1f of 1,000 tokens",
        num_tokens,
        layout.num_blocks,
        layout.block_size,
        num_tokens * per_token / GIB,
        num_tokens / context,
        context,
        num_tokens / 1000,
    )
    if num_tokens < context:
        logger.warning(
            "the KV cache has memory for %d tokens: longer requests are refused, though the model's"
            " context is %d; raise KV_CACHE_GB if there is memory",
            num_tokens,
            context,
        )


def _memory_budget(device: torch.device, config: EngineConfig) -> float:
    """Returns the bytes that the KV cache may take."""
    if config.kv_cache_gb is not None:
        return config.kv_cache_gb * GIB
    if device.type == "cuda":
        torch.cuda.empty_cache()  # PyTorch keeps what the check of the model has freed
        free, _ = torch.cuda.mem_get_info(device)
        return 2 * MEMORY_SHARE * free
    return MEMORY_SHARE * free_memory()
