"""Callbacks of HuggingFace's `generate`: each new token, and the end of an aborted request."""

from collections.abc import Callable

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TokenStreamer(BaseStreamer):
    """Passes on each new token; `generate` streams the prompt first, which is dropped.

    Args:
        on_token: called with each new token's id, before `generate` asks the stopping criteria.
    """

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._has_prompt = False
        self.num_tokens = 0
        self.last_token_id: int | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.last_token_id = int(value.item())
        self.num_tokens += 1
        self._on_token(self.last_token_id)

    def end(self) -> None:
        pass


class AbortCriteria(StoppingCriteria):
    """Ends `generate` once the request is aborted.

    Args:
        is_aborted: asked after each token.
    """

    def __init__(self, is_aborted: Callable[[], bool]) -> None:
        self._is_aborted = is_aborted

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._is_aborted(), device=input_ids.device)
