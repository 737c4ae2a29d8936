"""Messages at the engine's boundary: a `Request` in, `EngineUpdate`s out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from src.engine.logprobs import PositionLogprobs
from src.engine.sampling_params import SamplingParams
from src.engine.thought import Thought

if TYPE_CHECKING:
    from src.engine.lora.adapter import LoraAdapter
    from src.engine.structured_output.matcher import Grammar


class FinishReason(StrEnum):
    """Reasons why a request ended; the first three are normal."""

    STOP = "stop"  # an end token, a stop text or a complete grammar
    LENGTH = "length"  # max_tokens
    EMBEDDED = "embedded"  # the embedding of the whole prompt is computed
    ABORT = "abort"  # by its caller, or by the engine's shutdown
    EXPIRED = "expired"  # it exceeded the queue's deadline
    DISPLACED = "displaced"  # its place in the full queue went to another tenant
    DEAD_END = "dead_end"  # its grammar allowed no next token, or exceeded its limits
    ERROR = "error"  # its work raised, or the engine died


FAILURES = frozenset(FinishReason) - {
    FinishReason.STOP,
    FinishReason.LENGTH,
    FinishReason.EMBEDDED,
}
"""Reasons with which a request has no answer."""


class Priority(IntEnum):
    """Class of a request; lower ones come first."""

    INTERACTIVE = 0
    DEFAULT = 1
    BATCH = 2  # in the background: takes what others leave


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue, or to embed.

    Args:
        request_id: unique among live requests.
        prompt_token_ids: at least one; with `sampling_params.max_tokens` at most the context.
        sampling_params: ignored for embeddings.
        arrived_at: on the monotonic clock, in seconds.
        embeds: asks for the prompt's embedding instead of new tokens.
        grammar: shape of the answer, compiled; None leaves it free.
        thought: the thought before the answer, if the engine has to follow it.
        tenant: fairness and prefix caching are by tenant.
        weight: the tenant's share, relative to a tenant of weight 1; at least 1.
        group: shared by the sequences of one API request; empty if it has only one.
        priority: class among the tenant's requests, or background work of all tenants.
        adapter: LoRA adapter of the answer; None is the base model.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    arrived_at: float = field(default_factory=time.monotonic, compare=False)
    embeds: bool = False
    grammar: "Grammar | None" = None
    thought: Thought | None = None
    tenant: str = ""
    weight: int = 1
    group: str = ""
    priority: Priority = Priority.DEFAULT
    adapter: "LoraAdapter | None" = None

    @property
    def needs_every_position(self) -> bool:
        """True if cached tokens have to be computed too, for their hidden states or logits."""
        return self.embeds or self.sampling_params.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class Admission:
    """Record of a request's first admission to a running place.

    Args:
        queue_seconds: time from arrival to admission.
        num_cached_tokens: number of prompt tokens taken from the prefix cache.
    """

    queue_seconds: float
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """New results of one request.

    Args:
        request_id: as in its `Request`.
        new_token_ids: tokens since the last output, end tokens included.
        finish_reason: None until the last output.
        logprobs: one for each new token, if the request asks for them.
        prompt_logprobs: one for each prompt token but the first, together with the first new
            token, if the request asks for them.
        admission: with the first new token or the embedding; with the end of a request that ends
            before.
        embedding: of the prompt, scaled to length 1, in the last output of an embedding request.
        num_drafted: number of drafted tokens that the step verified.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    admission: Admission | None = None
    embedding: list[float] = field(default_factory=list)
    num_drafted: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """State of an engine after a step.

    Args:
        num_running: number of running sequences.
        num_waiting: number of sequences in the queue.
        num_cached_tokens: number of tokens of ended sequences in the prefix cache.
        kv_usage: share of the KV cache that holds keys and values, in [0, 1].
    """

    num_running: int = 0
    num_waiting: int = 0
    num_cached_tokens: int = 0
    kv_usage: float = 0.0


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counts of one step.

    Args:
        num_sequences: number of computed sequences.
        num_tokens: number of their computed tokens, drafts included.
        seconds: duration.
        num_drafted: number of drafted tokens.
        num_accepted: number of drafted tokens that were accepted.
        num_preempted: number of sequences preempted before the step.
    """

    num_sequences: int
    num_tokens: int
    seconds: float
    num_drafted: int = 0
    num_accepted: int = 0
    num_preempted: int = 0


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """Changes by a step; `step` is None for changes between steps, such as an abort."""

    outputs: list[RequestOutput]
    stats: EngineStats
    step: StepStats | None = None


UpdateCallback = Callable[[EngineUpdate], None]
"""Called in the engine's thread; it must return at once and never raise."""
