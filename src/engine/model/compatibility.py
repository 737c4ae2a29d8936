"""Compatibility check: can a model run on our attention?

Models differ in what they ask of attention, and some do not let it be replaced. So the check runs
the model: a probe finds the layers, and a prompt computed in pieces through the cache must give the
logits that the original model gives. All other layers are still the original ones meanwhile.
"""

from collections.abc import Callable, Iterator

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.model.kv_cache import LayerShape
from src.engine.model.loader import LoadedModel
from src.engine.model.runner import ModelRunner
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.kv_slots import Slot
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import ScheduledSequence

KNOWN_OPTIONS = frozenset(
    ["scaling", "sliding_window", "softcap", "s_aux", "dropout", "position_ids", "is_causal"]
)
PROBE_LENGTH = 48
TOLERANCE = 0.02
"""Largest difference of log-probabilities; 16-bit formats show the order of additions."""

CreateRunner = Callable[[dict[int, LayerShape], int], ModelRunner]
"""Creates a runner of a model's layers with a number of slots."""


class IncompatibleModelError(Exception):
    """The model cannot run on our attention; the message says why."""


def check_model(loaded: LoadedModel, create_runner: CreateRunner) -> dict[int, LayerShape]:
    """Returns the shape of each attention layer's cache; the model is left as it was.

    Args:
        loaded: the model.
        create_runner: creates a runner of this model.

    Raises:
        IncompatibleModelError: the model cannot run on our attention.
    """
    original = loaded.model.config._attn_implementation
    expected = probe_logits(loaded)
    layers = find_layers(loaded)
    runner = create_runner(layers, 1)
    try:
        check_logits(loaded, runner, expected)
    finally:
        loaded.model.set_attn_implementation(original)
        runner.close()
    return layers


def probe_token_ids(loaded: LoadedModel) -> torch.Tensor:
    """Returns the prompt of a probe, (1, length)."""
    length = min(PROBE_LENGTH, loaded.max_model_len)
    token_ids = torch.arange(1, length + 1, device=loaded.model.device) * 7 % loaded.vocab_size
    return token_ids[None]


def probe_pieces(loaded: LoadedModel) -> Iterator[ScheduledSequence]:
    """Yields the prompt in two pieces, then its last token; all use the cache's first slot.

    Each piece must be computed before the next is taken.
    """
    token_ids = probe_token_ids(loaded)[0].tolist()
    request = Request("probe", token_ids, SamplingParams())
    sequence = Sequence(request, token_ids=token_ids, slot=Slot(0))
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
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        layers[module.layer_idx] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])  # type: ignore[index]
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


def check_logits(loaded: LoadedModel, runner: ModelRunner, expected: torch.Tensor) -> None:
    """Computes the probe in pieces through the cache, and compares the logits.

    Raises:
        IncompatibleModelError: the log-probabilities differ from those expected.
    """
    try:
        for piece in probe_pieces(loaded):
            logits = runner.forward([piece], [piece.num_tokens - 1])
    except Exception as error:
        raise IncompatibleModelError(f"a prompt in pieces raises {type(error).__name__}") from error
    difference = (logits[0].log_softmax(dim=-1) - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise IncompatibleModelError(
            f"its log-probabilities differ by {difference:.3g} from the original model's"
        )
