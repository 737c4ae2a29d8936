"""Adapters for models with attention of their own, outside of transformers' attention interface.

GPT-Neo, GPT-J and CodeGen compute attention in a method, `_attn`. Its queries and keys carry their
positions already. The adapted method calls the attention function that is set for the model, as
other models do. With `eager`, the default, it is the original method.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass(frozen=True, slots=True)
class _Options:
    """Arguments of the attention interface, and the layer's index."""

    layer_idx: int
    scaling: float
    sliding_window: int | None = None


def _gpt_neo_options(module: Any) -> _Options:
    """Reads a layer's options; scores are not scaled, and every other layer may have a window."""
    window = module.config.window_size if module.attention_type == "local" else None
    return _Options(module.layer_id, scaling=1.0, sliding_window=window)


def _gptj_options(module: Any) -> _Options:
    return _Options(module.layer_idx, scaling=1 / float(module.scale_attn))


READ_OPTIONS: dict[str, Callable[[Any], _Options]] = {
    "transformers.models.codegen.modeling_codegen.CodeGenAttention": _gptj_options,
    "transformers.models.gptj.modeling_gptj.GPTJAttention": _gptj_options,
    "transformers.models.gpt_neo.modeling_gpt_neo.GPTNeoSelfAttention": _gpt_neo_options,
}
"""The classes that are adapted, by name: importing them takes a tenth of a second at each start."""


def adapt_attention(model: PreTrainedModel) -> None:
    """Lets a model's attention be replaced as transformers' interface does; others stay as is."""
    modules: list[Any] = [one for one in model.modules() if _name(type(one)) in READ_OPTIONS]
    for module in modules:
        options = READ_OPTIONS[_name(type(module))](module)
        module.layer_idx = options.layer_idx
        module._attn = partial(_attend, model.config, module, options, module._attn)
    if modules:
        # transformers searches the model's source code for its interface, and finds none.
        model._can_set_attn_implementation = lambda: True  # type: ignore[method-assign]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _attend(
    config: PreTrainedConfig,
    module: torch.nn.Module,
    options: _Options,
    original: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Computes attention as `_attn`: (1, num_heads, num_tokens, head_dim), and the weights."""
    implementation = config._attn_implementation
    if implementation == "eager":
        return original(query, key, value, attention_mask)
    output, weights = ALL_ATTENTION_FUNCTIONS[implementation](
        module,
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        attention_mask,
        scaling=options.scaling,
        sliding_window=options.sliding_window,
    )
    return output.transpose(1, 2), weights
