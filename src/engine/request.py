"""What crosses the border of the engine: a `Request` in, `RequestOutput`s out."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from src.engine.sampling_params import SamplingParams


class FinishReason(StrEnum):
    """Why a request ended; the first two are a caller's normal answers."""

    STOP = "stop"  # an end token, or a stop string
    LENGTH = "length"  # max_tokens
    ABORT = "abort"  # the caller wanted no more
    ERROR = "error"  # the model raised, or the engine died


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue.

    Args:
        request_id: unique among live requests.
        prompt_token_ids: at least one; with `sampling_params.max_tokens` at most the context.
        sampling_params: how to choose the tokens.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What is new for one request.

    Args:
        request_id: whose it is.
        new_token_ids: tokens since the last output; an end token is among them.
        finish_reason: None until the last output.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None


OutputCallback = Callable[[RequestOutput], None]
"""Called in the engine's thread; it must return at once and never raise."""
