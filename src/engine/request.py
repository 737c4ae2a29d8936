"""What crosses the border of the engine: a `Request` in, `EngineUpdate`s out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from src.engine.logprobs import PositionLogprobs
from src.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Grammar


class FinishReason(StrEnum):
    """Why a request ended; the first three are a caller's normal answers."""

    STOP = "stop"  # an end token, or a stop string
    LENGTH = "length"  # max_tokens
    EMBEDDED = "embedded"  # all of the prompt is in the embedding that was asked for
    ABORT = "abort"  # the caller wanted no more
    EXPIRED = "expired"  # it waited too long for its turn
    DISPLACED = "displaced"  # its place in the full queue went to a tenant that holds less
    ERROR = "error"  # the model raised, or the engine died


FAILURES = frozenset(
    {FinishReason.ABORT, FinishReason.EXPIRED, FinishReason.DISPLACED, FinishReason.ERROR}
)
"""What ends a request that is still wanted without an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue, or to embed.

    Args:
        request_id: unique among live requests.
        prompt_token_ids: at least one; with `sampling_params.max_tokens` at most the context.
        sampling_params: how to choose the tokens.
        arrived_at: on the monotonic clock, in seconds.
        embeds: the prompt's embedding is wanted and no token; sampling_params say nothing then.
        grammar: what its answer must look like, compiled; None leaves it free.
        tenant: whose it is: tenants take turns in the queue, and share no prefixes.
        weight: turns that the tenant has for each of a tenant of weight 1; at least 1.
        group: the same for all that a caller asked for at once; empty for one by itself.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    arrived_at: float = field(default_factory=time.monotonic, compare=False)
    embeds: bool = False
    grammar: "Grammar | None" = None
    tenant: str = ""
    weight: int = 1
    group: str = ""

    @property
    def needs_every_position(self) -> bool:
        """Whether the model has to compute tokens whose keys and values are cached, too."""
        return self.embeds or self.sampling_params.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class Admission:
    """How a request got its turn.

    Args:
        queue_seconds: how long it waited.
        num_cached_tokens: of its prompt, that did not have to be computed.
    """

    queue_seconds: float
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What is new for one request.

    Args:
        request_id: whose it is.
        new_token_ids: tokens since the last output; an end token is among them.
        finish_reason: None until the last output.
        logprobs: one for each new token, if the request asks for them.
        prompt_logprobs: for the prompt's tokens but the first, with the first new token, likewise.
        admission: with the first new token, or with the embedding, or with the end of a request
            that had its turn and neither.
        embedding: of the prompt, of length 1, with the finish reason of a request that embeds.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    admission: Admission | None = None
    embedding: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How an engine is after a step.

    Args:
        num_running: sequences that are being computed.
        num_waiting: sequences that wait for their turn.
        num_cached: ended sequences whose keys and values are still held.
        kv_usage: share of the KV cache that holds keys and values, in [0, 1].
    """

    num_running: int = 0
    num_waiting: int = 0
    num_cached: int = 0
    kv_usage: float = 0.0


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step did.

    Args:
        num_sequences: that it computed.
        num_tokens: of them.
        seconds: that it took.
        num_drafted: tokens that were guessed.
        num_accepted: of these, that the model chose too.
        num_preempted: sequences that gave their place to another tenant's before it.
    """

    num_sequences: int
    num_tokens: int
    seconds: float
    num_drafted: int = 0
    num_accepted: int = 0
    num_preempted: int = 0


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """All that a step changed; `step` is None if there was none, as when a request is aborted."""

    outputs: list[RequestOutput]
    stats: EngineStats
    step: StepStats | None = None


UpdateCallback = Callable[[EngineUpdate], None]
"""Called in the engine's thread; it must return at once and never raise."""
