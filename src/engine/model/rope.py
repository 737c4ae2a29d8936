"""Rotary position embeddings with fixed frequencies, whatever else is in a step.

LongRoPE (Ding et al. 2024, arXiv:2402.13753) and dynamic NTK scaling choose their frequencies by
the length of the text. transformers takes the largest position of the whole forward as that length.
One long request would change the answers of all others in its steps. Cached keys would be rotated
by other angles than later queries. Here the served context decides, once, which is vLLM's rule too.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

logger = logging.getLogger(__name__)

FIXED = "default"
"""A kind of RoPE for which transformers changes no frequencies in a forward."""


def fix_rotary_frequencies(model: nn.Module, max_model_len: int) -> None:
    """Fixes the frequencies of all rotary embeddings that would follow the length of a text.

    Args:
        model: a loaded model; the modules of its rotary embeddings are changed.
        max_model_len: tokens of the longest text that it is served with.
    """
    modules: Iterable[Any] = model.modules()  # their attributes have no types
    for module in modules:
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, str):
            if _follows_length(kind):
                _fix(module, kind, max_model_len, None)
                module.rope_type = FIXED
        elif isinstance(kind, dict):  # by type of layer
            for layer_type in [name for name, one in kind.items() if _follows_length(one)]:
                _fix(module, kind[layer_type], max_model_len, layer_type)
                kind[layer_type] = FIXED


def _follows_length(kind: str) -> bool:
    return kind == "longrope" or "dynamic" in kind


@torch.no_grad()
def _fix(module: Any, kind: str, max_model_len: int, layer_type: str | None) -> None:
    name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
    buffer = getattr(module, name)
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](
        module.config, buffer.device, seq_len=max_model_len, layer_type=layer_type
    )
    buffer.copy_(frequencies)
    _fix_magnitude(module.config.rope_parameters, max_model_len)
    logger.info("%s RoPE: frequencies for a context of %d tokens", kind, max_model_len)


def _fix_magnitude(parameters: dict[str, Any], max_model_len: int) -> None:
    """Fixes the factor of cosines and sines, which phimoe would choose by the length of a text."""
    if "long_mscale" in parameters:
        is_long = max_model_len > parameters["original_max_position_embeddings"]
        magnitude = parameters["long_mscale" if is_long else "short_mscale"]
        parameters |= {"long_mscale": magnitude, "short_mscale": magnitude}
