"""A model's last hidden states: what its decoder gives before the head makes logits of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


def find_decoder(model: PreTrainedModel) -> torch.nn.Module | None:
    """Returns the model without its head; None if its code does not part the two."""
    decoder: torch.nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return None if decoder is model else decoder


@torch.inference_mode()
def find_hidden_size(model: PreTrainedModel) -> int | None:
    """Returns how many numbers a last hidden state has; None if the model does not give them."""
    decoder = find_decoder(model)
    if decoder is None:
        return None
    token_ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    states: torch.Tensor = decoder(input_ids=token_ids, use_cache=False)[0]
    return states.shape[-1]


@contextmanager
def catch_hidden_states(model: PreTrainedModel, *, wanted: bool) -> Iterator[list[torch.Tensor]]:
    """Yields a list that gets the hidden states of each forward, (1, num_tokens, size), if wanted.

    So they cost nothing beside the logits of the same forward.
    """
    if not wanted:
        yield []
        return
    decoder = find_decoder(model)
    assert decoder is not None
    caught: list[torch.Tensor] = []
    hook = decoder.register_forward_hook(lambda module, given, output: caught.append(output[0]))
    try:
        yield caught
    finally:
        hook.remove()
