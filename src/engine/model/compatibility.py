"""Compatibility check: can a model run on our attention?

Models differ in what they ask of attention, and some do not let it be replaced. So the check runs
the model: a probe finds the layers, and a prompt computed in pieces through the cache must give the
logits that the original model gives. All other layers are still the original ones meanwhile.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.attention.kv_cache import CacheLayout, LayerShape
from src.engine.model.loader import LoadedModel
from src.engine.model.runner import ModelRunner
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import Block
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import ScheduledSequence

logger = logging.getLogger(__name__)

KNOWN_OPTIONS = frozenset(
    ["scaling", "sliding_window", "softcap", "s_aux", "dropout", "position_ids", "is_causal"]
)
PROBE_LENGTH = 48
PROBE_BLOCK_SIZE = 256
"""Tokens of the only block of a probe's cache: a size that all kernels can take."""

TOLERANCE = 0.005
"""Largest difference of log-probabilities beyond that of the model's own rounding."""

NOISE_FACTOR = 1.5
"""Largest ratio of that difference to the model's own between a prompt as a whole and in pieces."""

MAX_NOISE = {torch.float32: TOLERANCE, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Largest difference of a model's own; beyond it the order of computation is not the reason."""

STATELESS_KINDS = frozenset(
    ["full_attention", "sliding_attention", "chunked_attention", "attention", "mlp", "moe"]
)
"""Kinds of layers in configs that keep nothing but keys and values."""

CreateRunner = Callable[[dict[int, LayerShape], CacheLayout], ModelRunner]
"""Creates a runner of a model's layers with a KV cache."""


class IncompatibleModelError(Exception):
    """The model cannot run on our attention; the message says why."""


def check_model(
    loaded: LoadedModel, create_runner: CreateRunner, expected: torch.Tensor | None = None
) -> dict[int, LayerShape]:
    """Returns the shape of each attention layer's cache; the model is left as it was.

    Args:
        loaded: the model.
        create_runner: creates a runner of this model.
        expected: log-probabilities after a probe, if they are known.

    Raises:
        IncompatibleModelError: the model cannot run on our attention.
    """
    check_for_states(loaded)
    original = loaded.model.config._attn_implementation
    expected = probe_logits(loaded) if expected is None else expected
    noise = find_noise(loaded, expected)
    layers = find_layers(loaded)
    runner = create_runner(layers, CacheLayout(1, PROBE_BLOCK_SIZE, loaded.model.dtype))
    try:
        check_logits(loaded, runner, expected, noise)
    finally:
        loaded.model.set_attn_implementation(original)
        runner.close()
    return layers


def check_for_states(loaded: LoadedModel) -> None:
    """Refuses models with layers that keep a state, such as convolutions and recurrences.

    A state is lost between the pieces of a prompt. With small weights the logits hardly show it.

    Raises:
        IncompatibleModelError: names the kinds of layers.
    """
    config = loaded.model.config.get_text_config()
    kinds = {
        *(getattr(config, "layer_types", None) or ()),
        *(getattr(config, "layers_block_type", None) or ()),
    }
    states = kinds - STATELESS_KINDS
    if any(isinstance(module, torch.nn.Conv1d) for module in loaded.model.modules()):
        states.add("convolution")
    if loaded.model._is_stateful and not states:
        states.add("recurrence")  # transformers' mark; rwkv and xlstm have no kinds of layers
    if states:
        raise IncompatibleModelError(f"layers keep a state: {', '.join(sorted(states))}")


def probe_token_ids(loaded: LoadedModel) -> torch.Tensor:
    """Returns the prompt of a probe, (1, length)."""
    length = min(PROBE_LENGTH, loaded.max_model_len)
    token_ids = torch.arange(1, length + 1, device=loaded.model.device) * 7 % loaded.vocab_size
    return token_ids[None]


def probe_pieces(
    loaded: LoadedModel, block_size: int = PROBE_BLOCK_SIZE
) -> Iterator[ScheduledSequence]:
    """Yields the prompt in two pieces, then its last token; all use the cache's first blocks.

    Each piece must be computed before the next is taken.
    """
    token_ids = probe_token_ids(loaded)[0].tolist()
    request = Request("probe", token_ids, SamplingParams())
    sequence = Sequence(request, token_ids=token_ids)
    sequence.add_blocks([Block(index) for index in range(-(-len(token_ids) // block_size))])
    for num_tokens in (len(token_ids) // 2, (len(token_ids) - 1) // 2, None):
        piece = ScheduledSequence(sequence, num_tokens or sequence.num_missing)
        yield piece
        sequence.num_computed_tokens += piece.num_tokens


@torch.inference_mode()
def probe_logits(loaded: LoadedModel) -> torch.Tensor:
    """Returns log-probabilities after a probe, by the model as it is: (vocab_size,)."""
    logits: torch.Tensor = loaded.model(input_ids=probe_token_ids(loaded), use_cache=False).logits
    return logits[0, -1].float().log_softmax(dim=-1)


@torch.inference_mode()
def find_layers(loaded: LoadedModel) -> dict[int, LayerShape]:
    """Returns the shape of each attention layer's cache.

    Raises:
        IncompatibleModelError: the model's attention cannot be replaced, or uses options that our
            attention does not have.
    """
    layers: dict[int, LayerShape] = {}
    used: set[str] = set()

    def probe(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        window = options.get("sliding_window")
        layers[module.layer_idx] = LayerShape(  # type: ignore[index]
            key.shape[1], key.shape[-1], value.shape[-1], window
        )
        used.update(
            name for name, value in options.items() if value is not None and value is not False
        )
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    original = loaded.model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("engine-probe", probe)
    loaded.model.set_attn_implementation("engine-probe")
    try:
        loaded.model(input_ids=probe_token_ids(loaded)[:, :2], use_cache=False)
    except Exception as error:
        raise IncompatibleModelError(
            f"attention without a mask raises {type(error).__name__}"
        ) from error
    finally:
        loaded.model.set_attn_implementation(original)
    if not layers:
        raise IncompatibleModelError("its attention does not go through transformers' interface")
    if unknown := used - KNOWN_OPTIONS:
        raise IncompatibleModelError(f"its attention uses the options {', '.join(sorted(unknown))}")
    if _has_windows(loaded) and "sliding_window" not in used:
        raise IncompatibleModelError("only the mask shows the windows of its attention")
    return layers


def _has_windows(loaded: LoadedModel) -> bool:
    """Checks the config for sliding windows or chunks, which a short probe cannot show."""
    config = loaded.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return getattr(config, "sliding_window", None) is not None
    return not {"sliding_attention", "chunked_attention"}.isdisjoint(kinds)


@torch.inference_mode()
def find_noise(loaded: LoadedModel, expected: torch.Tensor) -> float:
    """Returns the difference that the order of computation makes in the model itself.

    The model computes the probe in pieces with transformers' own cache. In 16 bits that changes
    log-probabilities by up to some tenths, as logits are rounded to steps of 0.125 and less. The
    result is one such step of the largest logit at least: the pieces may happen to round alike.

    Args:
        loaded: the model.
        expected: log-probabilities of the probe as a whole.

    Raises:
        IncompatibleModelError: the difference is too large to be rounding.
    """
    if loaded.model.dtype == torch.float32:  # below TOLERANCE in any order, and forwards take long
        return 0
    token_ids = probe_token_ids(loaded)
    cache = DynamicCache(config=loaded.model.config)
    try:
        for piece in probe_pieces(loaded):
            start = piece.sequence.num_computed_tokens
            span = slice(start, start + piece.num_tokens)
            logits = loaded.model(
                input_ids=token_ids[:, span], past_key_values=cache, use_cache=True
            ).logits
    except Exception:
        logger.debug("the model cannot compute a prompt in pieces by itself", exc_info=True)
        return 0
    noise = _difference(logits[0, -1], expected)
    if not noise <= MAX_NOISE.get(loaded.model.dtype, TOLERANCE):
        raise IncompatibleModelError(
            f"its log-probabilities differ by {noise:.3g} between a prompt as a whole and in pieces"
        )
    step: float = torch.finfo(logits.dtype).eps * logits[0, -1].abs().max().item()
    return max(noise, step)


def check_logits(
    loaded: LoadedModel, runner: ModelRunner, expected: torch.Tensor, noise: float = 0
) -> None:
    """Computes the probe in pieces through the cache, and compares the logits.

    Args:
        loaded: the model.
        runner: runs it on our attention.
        expected: log-probabilities of the probe as a whole.
        noise: as of `find_noise`.

    Raises:
        IncompatibleModelError: the log-probabilities differ from those expected.
    """
    try:
        for piece in probe_pieces(loaded, runner.attention.cache.layout.block_size):
            logits = runner.forward([piece], [piece.num_tokens - 1])
    except Exception as error:
        raise IncompatibleModelError(f"a prompt in pieces raises {type(error).__name__}") from error
    difference = _difference(logits[0], expected)
    if not difference <= TOLERANCE + NOISE_FACTOR * noise:
        raise IncompatibleModelError(
            f"its log-probabilities differ by {difference:.3g} from the original model's"
        )


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest difference of log-probabilities, both (vocab_size,)."""
    return (logits.float().log_softmax(dim=-1) - expected).abs().max().item()
