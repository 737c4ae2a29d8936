"""Between the engine's thread and the event loop: one hand-over a step, one queue a stream.

Every sequence and each of its tokens passes here, so here they are counted and timed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from src.core.identity import current_caller
from src.engine.interface import Engine
from src.engine.request import Admission, EngineUpdate, FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import ServiceError

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a sequence ended, for those who count."""

    STOP = "stop"
    LENGTH = "length"
    EMBEDDED = "embedded"
    CANCELLED = "cancelled"  # nobody wants it any more
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    EXPIRED = "expired"  # it waited too long for its turn
    DISPLACED = "displaced"  # its place in the full queue went to another key
    ERROR = "error"


OUTCOMES = {
    FinishReason.STOP: Outcome.STOP,
    FinishReason.LENGTH: Outcome.LENGTH,
    FinishReason.EMBEDDED: Outcome.EMBEDDED,
    FinishReason.ABORT: Outcome.SHUTDOWN,  # unless somebody here asked for it
    FinishReason.EXPIRED: Outcome.EXPIRED,
    FinishReason.DISPLACED: Outcome.DISPLACED,
    FinishReason.ERROR: Outcome.ERROR,
}


ADMITTED = "admitted"
LEFT_QUEUE = {Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.EXPIRED, Outcome.DISPLACED}
"""Who ends so and had no turn was in the queue. Where the engine ended, it does not tell."""


class Observer(Protocol):
    """Who counts what happens; called in the event loop. Times are in seconds."""

    def sequence_started(self) -> None: ...

    def queue_left(self, operation: str, outcome: str, seconds: float) -> None:
        """The outcome is ADMITTED for who got its turn, or how it ended without one."""

    def prompt_computed(
        self, operation: str, seconds: float, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None: ...

    def first_token(self, operation: str, seconds: float) -> None: ...

    def next_token(self, seconds: float) -> None: ...

    def sequence_ended(
        self, operation: str, outcome: str, seconds: float, seconds_per_token: float | None
    ) -> None: ...

    def step_done(self, num_sequences: int, num_tokens: int, seconds: float) -> None: ...

    def step_goes_on(self, seconds: float) -> None:
        """Called at each beat of the heart with how long the current step has been taking."""

    def tokens_drafted(self, count: int, num_accepted: int) -> None: ...

    def sequences_preempted(self, count: int) -> None: ...

    def engine_changed(
        self, num_running: int, num_waiting: int, num_cached: int, kv_usage: float
    ) -> None: ...

    def grammar_asked_for(self, outcome: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class EndedSequence:
    """What became of a sequence. Times are in seconds on the monotonic clock.

    Args:
        request_id: the engine's.
        operation: what it was there for.
        params: how its tokens were chosen.
        outcome: how it ended.
        num_prompt_tokens: of its prompt.
        num_cached_tokens: of them, that did not have to be computed.
        num_tokens: that it generated.
        arrived_at: when it was submitted.
        admitted_at: when it got its turn; None if it had none, or the engine did not tell.
        first_token_at: None if it had no token.
        ended_at: when the engine was done with it.
    """

    request_id: str
    operation: str
    params: SamplingParams
    outcome: Outcome
    num_prompt_tokens: int
    num_cached_tokens: int
    num_tokens: int
    arrived_at: float
    admitted_at: float | None
    first_token_at: float | None
    ended_at: float


class Tracer(Protocol):
    """Who follows single sequences; called in the event loop, in the context of the submitter."""

    def sequence_ended(self, sequence: EndedSequence) -> None: ...


class Meter(Protocol):
    """Who counts what each caller uses; called in the event loop, in the submitter's context."""

    async def reserve(self, num_prompt_tokens: int, num_new_tokens: int, count: int) -> None: ...

    def give_up(self, num_prompt_tokens: int, count: int) -> None: ...

    def sequence_ended(self, sequence: EndedSequence) -> None: ...


Trim = Callable[[RequestOutput], RequestOutput]
"""Returns the part of an output that belongs to the answer, with the reason for which it ends."""


@dataclass(slots=True, eq=False)
class _Live:
    """A sequence in the engine."""

    engine: Engine
    request: Request
    operation: str
    trim: Trim | None
    outputs: asyncio.Queue[RequestOutput | None]
    context: Context = field(default_factory=copy_context)
    outcome: Outcome | None = None  # set by whoever ends it here
    admission: Admission | None = None
    num_tokens: int = 0
    first_token_at: float = 0
    last_token_at: float = 0


class OutputDispatcher:
    """Carries requests to an engine, and its outputs back to whoever awaits them.

    It serves one event loop at a time: the one in which `submit` was called last.

    Args:
        observer: None counts nothing.
        tracer: None traces nothing.
        meter: None lets everybody use any amount.
    """

    def __init__(
        self, observer: Observer | None, tracer: Tracer | None = None, meter: Meter | None = None
    ) -> None:
        self._observer = observer
        self._meter = meter
        self._followers = [one for one in (tracer, meter) if one is not None]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._live: dict[str, _Live] = {}

    def receive(self, update: EngineUpdate) -> None:
        """Takes what a step changed to the event loop. Called in the engine's thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and all who would read with it
                self._loop.call_soon_threadsafe(self._dispatch, update)

    async def submit(
        self,
        engine: Engine,
        requests: list[Request],
        operation: str,
        trims: Mapping[str, Trim] | None = None,
    ) -> asyncio.Queue[RequestOutput | None]:
        """Hands requests to the engine, as the current caller's; returns the queue of all outputs.

        None is never among them: who waits may put it in, to wake up.

        Args:
            engine: takes all or none.
            requests: of one call.
            operation: what the call is there for, for those who count.
            trims: by the requests' ids. They are called once for each output, in its order, and
                tokens that they leave out are not counted. Where one ends a sequence with a reason
                that the engine does not have, the engine is made to end it.

        Raises:
            EngineDeadError: the engine takes no requests any more.
            OverloadedError: too many wait already.
            ServiceError: what the meter raises.
        """
        num_prompt_tokens, num_new_tokens = _most_tokens(requests)
        if self._meter is not None:
            await self._meter.reserve(num_prompt_tokens, num_new_tokens, len(requests))
        try:
            return self._submit(engine, requests, operation, trims or {})
        except ServiceError:
            if self._meter is not None:
                self._meter.give_up(num_prompt_tokens, len(requests))
            raise

    def _submit(
        self,
        engine: Engine,
        requests: list[Request],
        operation: str,
        trims: Mapping[str, Trim],
    ) -> asyncio.Queue[RequestOutput | None]:
        self._loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[RequestOutput | None] = asyncio.Queue()
        caller = current_caller.get()
        group = requests[0].request_id if requests else ""
        requests = [
            replace(one, tenant=caller.id, weight=caller.weight, group=group) for one in requests
        ]
        engine.add_requests(requests)
        for request in requests:
            self._live[request.request_id] = _Live(
                engine, request, operation, trims.get(request.request_id), outputs
            )
            if self._observer is not None:
                self._observer.sequence_started()
        return outputs

    def end(self, engine: Engine, request_id: str, outcome: Outcome) -> None:
        """Ends a sequence for a reason of ours; it is over when the engine says so."""
        live = self._live.get(request_id)
        if live is not None:
            live.outcome = live.outcome or outcome
            engine.abort_request(request_id)

    def cut(
        self, request_ids: Collection[str], outputs: asyncio.Queue[RequestOutput | None]
    ) -> None:
        """Ends a call's sequences because its time is up.

        Each gets a last output, with the reason LENGTH, and its text so far is the answer. Where
        there is no answer yet, None is put into the queue instead.

        Args:
            request_ids: all of the call's.
            outputs: that `submit` returned for it.
        """
        live = [self._live[one] for one in request_ids if one in self._live]
        has_answer = _has_answer(live, len(request_ids))
        for one in live:
            if one.outcome is not None:  # it has had its last output
                continue
            last = RequestOutput(one.request.request_id, [], FinishReason.LENGTH)
            if has_answer:
                outputs.put_nowait(self._trim(one, last))
            self.end(one.engine, one.request.request_id, Outcome.TIMEOUT)
        if not has_answer:
            outputs.put_nowait(None)

    def _dispatch(self, update: EngineUpdate) -> None:
        now = time.monotonic()
        for output in update.outputs:
            live = self._live.get(output.request_id)
            if live is not None:  # it is None if its event loop ended before it did
                trimmed = self._trim(live, output)
                self._observe(live, output, len(trimmed.new_token_ids), now)
                live.outputs.put_nowait(trimmed)
        if self._observer is not None:
            stats, step = update.stats, update.step
            self._observer.engine_changed(
                stats.num_running, stats.num_waiting, stats.num_cached, stats.kv_usage
            )
            if step is not None:
                self._observer.step_done(step.num_sequences, step.num_tokens, step.seconds)
                self._observer.tokens_drafted(step.num_drafted, step.num_accepted)
                self._observer.sequences_preempted(step.num_preempted)

    def _trim(self, live: _Live, output: RequestOutput) -> RequestOutput:
        """The part of an output that belongs to the answer; nothing once the answer has ended."""
        if live.outcome is not None:
            return replace(output, new_token_ids=[], logprobs=[])
        if live.trim is None:
            return output
        try:
            trimmed = live.trim(output)
        except Exception:  # the other outputs of the step must be delivered
            logger.exception("the text of a sequence cannot be made")
            trimmed = replace(output, new_token_ids=[], finish_reason=FinishReason.ERROR)
        if trimmed.finish_reason is not output.finish_reason:
            assert trimmed.finish_reason is not None
            self.end(live.engine, output.request_id, OUTCOMES[trimmed.finish_reason])
        return trimmed

    def _observe(self, live: _Live, output: RequestOutput, num_tokens: int, now: float) -> None:
        observer = self._observer
        if live.admission is None and output.admission is not None:
            live.admission = output.admission
            if observer is not None:
                _observe_admission(observer, live, output, now)
        if num_tokens:
            if observer is not None:
                _observe_tokens(observer, live, num_tokens, now)
            live.num_tokens += num_tokens
            live.last_token_at = now
            live.first_token_at = live.first_token_at or now
        if output.finish_reason is not None:
            del self._live[output.request_id]
            live.outcome = live.outcome or OUTCOMES[output.finish_reason]
            if observer is not None:
                _observe_end(observer, live, live.outcome, now)
            for follower in self._followers:
                live.context.run(follower.sequence_ended, _ended(live, live.outcome, now))


def _has_answer(live: list[_Live], num_requests: int) -> bool:
    """Returns True if a call that is cut has an answer: a token, and all prompts' logprobs."""
    if any(
        one.request.needs_every_position and not one.num_tokens and one.outcome is None
        for one in live
    ):
        return False
    return len(live) < num_requests or any(one.num_tokens for one in live)


def _most_tokens(requests: list[Request]) -> tuple[int, int]:
    """Tokens of their prompts, each but once whatever continues it, and what may follow."""
    prompts = {id(one.prompt_token_ids): one.prompt_token_ids for one in requests}
    num_new = sum(0 if one.embeds else one.sampling_params.max_tokens for one in requests)
    return sum(map(len, prompts.values())), num_new


def _observe_admission(observer: Observer, live: _Live, output: RequestOutput, now: float) -> None:
    """It comes with the first token or the embedding, or with the end of a sequence without."""
    assert live.admission is not None
    queue_seconds = live.admission.queue_seconds
    observer.queue_left(live.operation, ADMITTED, queue_seconds)
    if output.new_token_ids or output.finish_reason is FinishReason.EMBEDDED:
        observer.prompt_computed(
            live.operation,
            now - live.request.arrived_at - queue_seconds,
            len(live.request.prompt_token_ids),
            live.admission.num_cached_tokens,
        )


def _observe_tokens(observer: Observer, live: _Live, count: int, now: float) -> None:
    """Tokens that come together share the time since the one before. The first comes alone."""
    if not live.num_tokens:
        observer.first_token(live.operation, now - live.request.arrived_at)
        return
    for _ in range(count):
        observer.next_token((now - live.last_token_at) / count)


def _observe_end(observer: Observer, live: _Live, outcome: Outcome, now: float) -> None:
    seconds = now - live.request.arrived_at
    if live.admission is None and outcome in LEFT_QUEUE:
        observer.queue_left(live.operation, outcome, seconds)
    seconds_per_token = None
    if live.num_tokens > 1:
        seconds_per_token = (live.last_token_at - live.first_token_at) / (live.num_tokens - 1)
    observer.sequence_ended(live.operation, outcome, seconds, seconds_per_token)


def _ended(live: _Live, outcome: Outcome, now: float) -> EndedSequence:
    request, admission = live.request, live.admission
    return EndedSequence(
        request_id=request.request_id,
        operation=live.operation,
        params=request.sampling_params,
        outcome=outcome,
        num_prompt_tokens=len(request.prompt_token_ids),
        num_cached_tokens=admission.num_cached_tokens if admission else 0,
        num_tokens=live.num_tokens,
        arrived_at=request.arrived_at,
        admitted_at=request.arrived_at + admission.queue_seconds if admission else None,
        first_token_at=live.first_token_at or None,
        ended_at=now,
    )
