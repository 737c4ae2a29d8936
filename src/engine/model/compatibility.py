"""Finds out whether a model can run on our attention, by running it.

Models differ in what they ask of attention, and some do not let it be replaced at all. So nothing
is trusted: the layers are found by a probe, and a prompt computed in pieces through the cache must
give the logits that the untouched model gives. All else of the model is as it was loaded meanwhile.
"""

from collections.abc import Iterator

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.kernels.bindings import CpuKernels
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
"""Largest difference of log-probabilities; in 16-bit formats the order of additions shows."""


class IncompatibleModelError(Exception):
    """The model cannot run on our attention; the message says why."""


def check_model(loaded: LoadedModel, library: CpuKernels | None = None) -> dict[int, LayerShape]:
    """Returns what each attention layer keeps of a token; the model is left as it was.

    Args:
        loaded: the model.
        library: our own kernels, if its attention is to use them.

    Raises:
        IncompatibleModelError: the model cannot run on our attention.
    """
    own_attention = loaded.model.config._attn_implementation
    expected = probe_logits(loaded)
    layers = find_layers(loaded)
    runner = ModelRunner(loaded, layers, 1, library)
    try:
        check_logits(loaded, runner, expected)
    finally:
        loaded.model.set_attn_implementation(own_attention)
        runner.close()
    return layers


def probe_token_ids(loaded: LoadedModel) -> torch.Tensor:
    """A prompt to try a model with, (1, length)."""
    length = min(PROBE_LENGTH, loaded.max_model_len)
    token_ids = torch.arange(1, length + 1, device=loaded.model.device) * 7 % loaded.vocab_size
    return token_ids[None]


def probe_pieces(loaded: LoadedModel) -> Iterator[ScheduledSequence]:
    """That prompt in two pieces and a last token, each to be computed before the next is asked for.

    They use the cache's first slot.
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
    """The log-probabilities after a probe, by the model as it is: (vocab_size,)."""
    logits: torch.Tensor = loaded.model(input_ids=probe_token_ids(loaded), use_cache=False).logits
    return logits[0, -1].float().log_softmax(dim=-1)


@torch.inference_mode()
def find_layers(loaded: LoadedModel) -> dict[int, LayerShape]:
    """Returns what each attention layer keeps of a token.

    Raises:
        IncompatibleModelError: the model's attention cannot be replaced, or asks for what we do not
            know.
    """
    layers: dict[int, LayerShape] = {}
    asked: set[str] = set()

    def probe(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        layers[module.layer_idx] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])  # type: ignore[index]
        asked.update(
            name for name, wanted in options.items() if wanted is not None and wanted is not False
        )
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    original = loaded.model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("engine-probe", probe)
    loaded.model.set_attn_implementation("engine-probe")
    try:
        loaded.model(input_ids=probe_token_ids(loaded)[:, :2], use_cache=False)
    except Exception as error:
        raise IncompatibleModelError(f"without a mask it raises {type(error).__name__}") from error
    finally:
        loaded.model.set_attn_implementation(original)
    if not layers:
        raise IncompatibleModelError("its attention does not go through transformers' interface")
    if unknown := asked - KNOWN_OPTIONS:
        raise IncompatibleModelError(f"its attention asks for {', '.join(sorted(unknown))}")
    if _has_windows(loaded) and "sliding_window" not in asked:
        raise IncompatibleModelError("the windows of its attention are in the mask alone")
    return layers


def _has_windows(loaded: LoadedModel) -> bool:
    """Whether tokens see but a part of those before them; a short probe cannot show that."""
    config = loaded.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return getattr(config, "sliding_window", None) is not None
    return not {"sliding_attention", "chunked_attention"}.isdisjoint(kinds)


def check_logits(loaded: LoadedModel, runner: ModelRunner, expected: torch.Tensor) -> None:
    """Computes the probe through the cache, in pieces, and compares.

    Raises:
        IncompatibleModelError: the log-probabilities differ from those expected.
    """
    try:
        for piece in probe_pieces(loaded):
            logits = runner.forward([piece], [piece.num_tokens - 1])
    except Exception as error:
        raise IncompatibleModelError(f"in pieces it raises {type(error).__name__}") from error
    difference = (logits[0].log_softmax(dim=-1) - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise IncompatibleModelError(
            f"its log-probabilities differ by {difference:.3g} from those it gives by itself"
        )
