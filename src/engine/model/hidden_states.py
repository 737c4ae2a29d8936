"""A model's last hidden states: the decoder's output, from which the head computes logits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


def find_decoder(model: PreTrainedModel) -> torch.nn.Module | None:
    """Returns the model without its head; None if its code does not separate the two."""
    decoder: torch.nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return None if decoder is model else decoder


@torch.inference_mode()
def find_hidden_size(model: PreTrainedModel) -> int | None:
    """Returns the size of a last hidden state; None if hidden states are not accessible."""
    decoder = find_decoder(model)
    if decoder is None:
        return None
    token_ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    states: torch.Tensor = decoder(input_ids=token_ids, use_cache=False)[0]
    return states.shape[-1]


@contextmanager
def catch_hidden_states(model: PreTrainedModel, *, wanted: bool) -> Iterator[list[torch.Tensor]]:
    """Yields a list to which each forward appends its hidden states, (1, num_tokens, size).

    They come from the forward that computes the logits, at no further cost.

    Args:
        wanted: False leaves the list empty.
    """
    if not wanted:
        yield []
        return
    decoder = find_decoder(model)
    assert decoder is not None
    caught: list[torch.Tensor] = []
    hook = decoder.register_forward_hook(lambda module, inputs, output: caught.append(output[0]))
    try:
        yield caught
    finally:
        hook.remove()
